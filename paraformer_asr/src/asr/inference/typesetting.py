"""How words and signs are written: blanks, capitals, the width of signs.

- natural: a sentence begins with a capital, and a word that has capitals keeps them; signs are as wide as the
  characters before them; a blank follows a narrow sign, none a wide one
- exact: FunASR's text: `str.capitalize`, and blanks between words in ASCII only
"""

import re

from asr.data.text.pieces import IDEOGRAPHS, is_ideograph
from asr.inference.words import CLOSING, SENTENCE_END

ENDS = frozenset("。？！.?!")
COMMAS = frozenset("，,")
NARROW = {"，": ",", "。": ".", "？": "?", "！": "!", "、": ",", "；": ";", "：": ":"}
"""Signs between Chinese characters → those behind other scripts."""
WIDE = {",": "，", ".": "。", "?": "？", "!": "！", ";": "；", ":": "："}
OPENING = "\"'“‘(\\[（【《「『"
QUOTES = (OPENING + CLOSING).replace("\\", "")
"""Quotes and brackets around words."""
_own_sign = re.compile(rf"[,.?!;:，。？！；：、…]+[{CLOSING}]*$")
_only_signs = re.compile(rf"[,.?!;:，。？！；：、…{CLOSING}{OPENING}–—-]+")
_WIDE_SIGNS = "\u3001-\u3004\u3008-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_words = re.compile(rf"[{IDEOGRAPHS}]|[{_WIDE_SIGNS}]+|[^\s{IDEOGRAPHS}{_WIDE_SIGNS}]+")


def split_parts(text: str) -> list[str]:
    """Return a text as the network reads it: at white space, each run of ASCII, and each other character by itself."""
    return re.findall(r"[^\s\x80-\U0010ffff]+|[^\s\x00-\x7f]", text)


def split_text(text: str) -> list[tuple[str, bool]]:
    """Return (word, whether white space comes before it): parts at white space, ideographs and wide signs by itself."""
    matches = list(_words.finditer(text))
    ends = [0, *(match.end() for match in matches)]
    return [(match[0], match.start() > end) for match, end in zip(matches, ends, strict=False)]


def is_only_signs(word: str) -> bool:
    """Return whether a word has neither a letter nor a digit nor a symbol that is read aloud."""
    return bool(_only_signs.fullmatch(word))


def split_own_sign(word: str) -> tuple[str, str]:
    """Return a word and the sign that it ends with already, with closing quotes: `yes."` is `yes` and `."`."""
    match = _own_sign.search(word)
    return (word[: match.start()], match[0]) if match else (word, "")


def ends_sentence(text: str) -> bool:
    """Return whether a text ends with the end of a sentence, quotes and brackets behind it aside."""
    return bool(SENTENCE_END.search(text))


def needs_space(before: str, after: str) -> bool:
    """Return whether a blank belongs between two segments: not between Chinese or Japanese characters or signs."""
    return bool(before and after) and not (_without_blank(before[-1]) and _without_blank(after[0]))


def _without_blank(character: str) -> bool:
    return is_ideograph(character) or "\u3000" <= character <= "\u303f" or "\uff00" <= character <= "\uff9f"


def fitting_sign(word: str, sign: str) -> str:
    """Return a sign in the width that fits the end of a word."""
    return WIDE.get(sign, sign) if word and _without_blank(word[-1]) else NARROW.get(sign, sign)


def with_capital(word: str) -> str:
    """Return a word with its first letter in upper case, unless it has capitals of its own, as iPhone."""
    start = len(word) - len(word.lstrip(QUOTES))
    first = word[start : start + 1].upper()
    return word if len(first) != 1 or word.lower() != word else word[:start] + first + word[start + 1 :]


class NaturalTypesetter:
    """Writes words and signs in turn, as a person does."""

    def __init__(self):
        self._before, self._is_start, self._sign = "", True, ""

    def start_part(self) -> None:
        """Nothing: where windows end leaves no trace."""

    def word(self, word: str, space_before: bool) -> tuple[str, bool]:
        """Return the text of a word, and whether a blank comes before it."""
        blank = not _without_blank(self._sign) if self._sign else space_before and needs_space(self._before, word)
        text = with_capital(word) if self._is_start else word
        if any(map(str.isalnum, word)) or ends_sentence(word):
            self._is_start = ends_sentence(word)
        self._before, self._sign = text, ""
        return text, blank

    def sign(self, sign: str) -> str:
        """Return the text of a sign behind the last word."""
        self._sign = sign = fitting_sign(self._before, sign)
        if sign:
            self._is_start = sign in ENDS
        return sign


class ExactTypesetter:
    """Writes parts and signs in turn, as FunASR's CTTransformer does."""

    def __init__(self):
        self._before, self._sign = "", ""

    def start_part(self) -> None:
        """Begin what the next window gave: its first word counts as the first of a sentence."""
        self._before, self._sign = "", ""

    def word(self, word: str, space_before: bool) -> tuple[str, bool]:
        """Return the text of a word, and whether a blank comes before it."""
        is_first, before, self._before = not self._before, self._before, word
        if not word[0].isascii():
            return word, False
        text = word.capitalize() if is_first or self._sign in ("。", "？") else word
        return text, is_first or before[0].isascii()

    def sign(self, sign: str) -> str:
        """Return the text of a sign behind the last word; the enumeration comma stays wide."""
        self._sign = sign
        return NARROW[sign] if self._before[0].isascii() and sign in ("，", "。", "？") else sign


def close_exactly(text: str) -> str:
    """Return a text with FunASR's end: a comma becomes a full stop, and one is added where no sentence ends."""
    if text[-1] in "，、":
        return f"{text[:-1]}。"
    if text[-1] == ",":
        return f"{text[:-1]}."
    if text[-1].isascii():
        return text if text[-1] in ".?" else f"{text}."
    return text if text[-1] in "。？" else f"{text}。"
