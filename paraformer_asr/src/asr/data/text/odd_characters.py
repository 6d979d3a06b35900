"""Finds characters that a model cannot learn or write: look-alikes, invisible ones, special tokens, unknown ones."""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from asr.data.text.tokenizer import SPECIAL, Tokenizer

PLAIN = dict.fromkeys("’‘ʼ′`´＇", "'") | dict.fromkeys("“”„″", '"') | dict.fromkeys("‐‑‒–—−", "-") | {"…": "..."}
"""Signs that look like those of a keyboard. Unicode's compatible forms (NFKC) give more twins."""

MAX_LISTED = 10  # most characters that a message lists
JOINERS = "\u200c\u200d"  # invisible characters that are part of the spelling of Arabic and Indic scripts
FIRST_JOINED = "\u0600"  # the first letter of these scripts


@dataclasses.dataclass
class Use:
    """Uses of a character or a word."""

    times: int = 0  # in all texts
    lines: int = 0  # texts with it
    first: str = ""  # where the first of them is

    def __str__(self):
        """Return a phrase for messages."""
        return f"{self.times:,} × in {self.lines:,} text{'s' * (self.lines != 1)}, first in {self.first}"


Texts = Sequence[tuple[str, str]]  # (file and line or name, text) of each utterance


def find_odd_characters(splits: Mapping[str, Texts], tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Return split → messages: what is odd, its uses, and what to write instead; "train" may be missing."""
    normalised = {split: _normalised(texts, tokenizer) for split, texts in splits.items()}
    uses = {split: count_uses(texts, iter) for split, texts in normalised.items()}
    trained = uses.get("train")
    messages: dict[str, list[str]] = {}
    for split, own in uses.items():
        messages[split] = _special_tokens(normalised[split]) + _invisible(own)
        messages[split] += _twins(own) if trained is None or split == "train" else _untrained(own, trained)
    return messages


def find_unwritable(texts: Texts, tokenizer: Tokenizer) -> list[str]:
    """Return a message about the parts of texts without a token, most frequent first, or nothing."""

    def is_known(form: str) -> bool:
        return not tokenizer.unknown_characters(form)

    def instead(part: str) -> str:
        if form := _known_form(part, is_known):
            return f"; write {form!r}"
        other = part.swapcase()
        return f"; the vocabulary has {other!r}" if other != part and is_known(other) else ""

    uses = count_uses(_normalised(texts, tokenizer), tokenizer.unknown_characters)
    return [f"no token for {_list(uses, instead)}"] if uses else []


def count_uses(texts: Texts, find_parts: Callable[[str], Iterable[str]]) -> dict[str, Use]:
    """Return part → its uses, of the parts that `find_parts` returns of each text."""
    uses: dict[str, Use] = {}
    for where, text in texts:
        for part in dict.fromkeys(find_parts(text)):
            use = uses.setdefault(part, Use(first=where))
            use.times += text.count(part)
            use.lines += 1
    return uses


def twin(character: str) -> str:
    """Return the plain form of a character, itself if it is plain; case is kept."""
    return PLAIN.get(character) or unicodedata.normalize("NFKC", character)


def shown(part: str) -> str:
    """Return a character or a word for a message; a single character beyond ASCII has its name beside it."""
    if len(part) > 1 or part.isascii():
        return repr(part)
    code = f"U+{ord(part):04X} {unicodedata.name(part, 'without a name')}"
    return f"{part!r} ({code})" if part.isprintable() else code


def _normalised(texts: Texts, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [(where, tokenizer.normalise(text)) for where, text in texts]


def _ranked(uses: Mapping[str, Use]) -> list[tuple[str, Use]]:
    return sorted(uses.items(), key=lambda item: (-item[1].times, item[0]))


def _list(uses: Mapping[str, Use], advice: Callable[[str], str]) -> str:
    """Return the most frequent parts with their uses and advice."""
    listed = [f"{shown(part)} ({use}{advice(part)})" for part, use in _ranked(uses)[:MAX_LISTED]]
    more = f" and {len(uses) - MAX_LISTED} more" if len(uses) > MAX_LISTED else ""
    return "; ".join(listed) + more


def _special_tokens(texts: Texts) -> list[str]:
    lowered = [(where, text.lower()) for where, text in texts]
    uses = count_uses(lowered, lambda text: [token for token in SPECIAL if token in text])
    return [
        f"the text {token!r} ({use}) is not the special token of this name, but letters to be spoken; remove it"
        for token, use in _ranked(uses)
    ]


def _invisible(uses: Mapping[str, Use]) -> list[str]:
    joined = any(character >= FIRST_JOINED and character.isalpha() for character in uses)
    return [
        f"invisible: {shown(character)} ({use}); remove it"
        for character, use in _ranked(uses)
        if unicodedata.category(character) in ("Cf", "Cc", "Co", "Cn") and not (joined and character in JOINERS)
    ]


def _twins(uses: Mapping[str, Use]) -> list[str]:
    """Return a message for each character whose plain form occurs too."""
    twins = ((character, use, twin(character)) for character, use in _ranked(uses))
    return [
        f"{shown(character)} ({use}) and {plain!r} are two characters for the model; write {plain!r} for both"
        for character, use, plain in twins
        if plain != character and all(part in uses for part in plain)
    ]


def _untrained(uses: Mapping[str, Use], trained: Mapping[str, Use]) -> list[str]:
    def instead(character: str) -> str:
        if form := _known_form(character, lambda form: all(part in trained for part in form)):
            return f"; write {form!r}"
        other = character.swapcase()
        case = "lower" if other.islower() else "upper"
        return f"; {other!r} is: set tokenizer.text_case={case}" if other != character and other in trained else ""

    missing = {character: use for character, use in uses.items() if character not in trained}
    return [f"never in the training texts: {_list(missing, instead)}"] if missing else []


def _known_form(part: str, is_known: Callable[[str], bool]) -> str:
    """Return the first plain form of a part that is known, in its case, lower or upper; "" if none is."""
    plain = "".join(map(twin, part))
    forms = (plain, plain.lower(), plain.upper()) if plain != part else ()
    return next(filter(is_known, forms), "")
