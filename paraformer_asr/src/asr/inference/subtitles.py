"""Subtitles: words as cues of at most two lines that follow each other.

A terminal or a subtitle gives each character one column or two: Chinese characters, kana, Hangul syllables, full-width
forms and emoji fill two; combining marks and the further members of an emoji sequence fill none.
"""

import dataclasses
import unicodedata
from collections.abc import Iterator, Sequence

from asr.inference.words import Token, Word, join_words

MAX_CUE_S = 7.0  # longest cue, in seconds
MAX_LINE_CHARACTERS = 42  # longest line of a cue, in columns
NO_START, NO_END = frozenset("，。、；：？！）》」』】〉”’…％%,.;:?!)]}"), frozenset("（《「『【〈“‘([{")
"""Characters that no line begins with, and that no line ends with."""
MIN_CUE_S = 0.7  # shortest cue, in seconds, if the next one leaves the time
PAUSE_S = 1.0  # silence between two words that starts a new cue, in seconds
JOINER, EMOJI_STYLE = "\u200d", "\ufe0f"


@dataclasses.dataclass(frozen=True)
class Cue:
    """One subtitle."""

    start_s: float  # when it appears
    end_s: float  # when it vanishes
    lines: tuple[str, ...]  # one or two lines of text


def make_cues(words: Sequence[Word]) -> list[Cue]:
    """Return the words, in order, as subtitles that follow each other, each two lines of text at most.

    A cue ends where the next word would make it too long in characters or seconds, and before a pause of a second.
    A word that is too long by itself is split at its tokens. Where a punctuation model put signs, a cue ends with its
    sentence, and one that is too long ends with its last sign.
    """
    groups: list[list[Word]] = []
    for word in (part for whole in words for part in _short_words(whole)):
        if not groups or _is_sentence_end(groups[-1][-1]):
            groups.append([word])
        elif _fits(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([*_behind_last_sign(groups[-1], word), word])
    starts = [group[0].start_s for group in groups] + [float("inf")]
    return [
        Cue(start_s, _end(group, start_s, next_start_s), _lines(group))
        for group, start_s, next_start_s in zip(groups, starts, starts[1:], strict=False)
    ]


def _is_sentence_end(word: Word) -> bool:
    return bool(word.sign) and word.ends_sentence


def _behind_last_sign(group: list[Word], word: Word) -> list[Word]:
    """Take the words behind the last sign out of a cue, and return them, if `word` can follow them in a cue."""
    start = next((i for i in range(len(group) - 1, 0, -1) if group[i - 1].sign), len(group))
    if start == len(group) or not _fits(group[start:], word):
        return []
    behind, group[start:] = group[start:], []
    return behind


def _fits(group: list[Word], word: Word) -> bool:
    if word.start_s - group[-1].end_s >= PAUSE_S or word.end_s - group[0].start_s > MAX_CUE_S:
        return False
    return max(map(text_columns, _lines([*group, word]))) <= MAX_LINE_CHARACTERS


def _lines(group: list[Word]) -> tuple[str, ...]:
    """Return the text of a cue; a text too long for one line is split where the two halves are closest in length.

    Punctuation stays with the word it belongs to, if the lines are not too long then.
    """
    text = join_words(group)
    if text_columns(text) <= MAX_LINE_CHARACTERS or len(group) == 1:
        return (text,)
    pairs = [(join_words(group[:i]), join_words(group[i:])) for i in range(1, len(group))]
    return min(pairs, key=_badness)


def _badness(pair: tuple[str, str]) -> tuple[bool, bool, int]:
    """Return what a pair of lines is chosen by, the most important first; lower is better."""
    first, second = pair
    columns = max(map(text_columns, pair))
    return columns > MAX_LINE_CHARACTERS, first[-1:] in NO_END or second[:1] in NO_START, columns


def _end(group: list[Word], start_s: float, next_start_s: float) -> float:
    """Return when a cue vanishes: with its last word, or later, but before the next; never when it appears."""
    end_s = max(group[-1].end_s, start_s + MIN_CUE_S)
    return max(min(end_s, next_start_s), start_s + 0.001)


def _short_words(word: Word) -> Iterator[Word]:
    """Yield `word`, or if it is too long for a line or a cue, its tokens as words that no blank parts."""
    if _is_short(word.text, word.end_s - word.start_s):
        yield word
        return
    parts = [piece for part in word.parts or (word,) for piece in _characters(part)]
    for i, part in enumerate(parts, 1):
        blank, sign = word.space_before and i == 1, word.sign if i == len(parts) else ""
        yield Word(part.text, part.start_s, part.end_s, part.confidence, space_before=blank, sign=sign)


def _characters(part: Token | Word) -> Sequence[Token | Word]:
    """Return a token; if it is too long and has wide characters, its characters, the time spread evenly over them."""
    text, duration_s = part.text, part.end_s - part.start_s
    if _is_short(text, duration_s) or not any(text_columns(c) == 2 for c in text):
        return (part,)
    edges = [part.start_s + duration_s * i / len(text) for i in range(len(text) + 1)]
    return [Token(c, *edges[i : i + 2], part.confidence) for i, c in enumerate(text)]


def _is_short(text: str, duration_s: float) -> bool:
    return text_columns(text) <= MAX_LINE_CHARACTERS and duration_s <= MAX_CUE_S


def text_columns(text: str) -> int:
    """Return the number of columns of a text.

    Reference: Unicode Standard Annex 11 (East Asian Width) and Technical Standard 51 (emoji sequences).
    """
    columns, last, joined, flag = 0, 0, False, False
    for character in text:
        if joined or "\U0001f3fb" <= character <= "\U0001f3ff" and last:  # within a sequence; a tone of skin
            joined = False
            continue
        joined = character == JOINER and last == 2
        width = _columns(character, last)
        half_flag = "\U0001f1e6" <= character <= "\U0001f1ff"  # two letters make one flag of two columns
        columns += 0 if half_flag and flag else width
        flag = half_flag and not flag
        last = width or last
    return columns


def _columns(character: str, last: int) -> int:
    """Return the columns that a character adds behind one of `last` columns."""
    if character == EMOJI_STYLE:  # the character before is drawn as an emoji
        return 1 if last == 1 else 0
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Cc") or "\u1160" <= character <= "\u11ff":
        return 0  # the vowels and final consonants of Hangul join the consonant before
    is_flag = "\U0001f1e6" <= character <= "\U0001f1ff"
    return 2 if is_flag or unicodedata.east_asian_width(character) in ("W", "F") else 1
