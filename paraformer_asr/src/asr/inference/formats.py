"""Writes a transcript as text, JSON, subtitles (SubRip, WebVTT) or CTM.

    text  one line
    json  {"file", "duration_s", "text", "words": [{"word", "start_s", "end_s", "confidence"}, …],
          "tokens": [{"token", …}, …], "segments": [{"start_s", "end_s", "text"}, …]} in one line; times in seconds
    srt   numbered cues of at most two lines of 42 columns, and 7 seconds; a Chinese character fills two columns
    vtt   the same cues for browsers
    ctm   a line `name 1 start duration word confidence` for each word, as NIST's scoring tools read it

This module imports neither jax nor numpy.
"""

import dataclasses
import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from asr.inference.columns import text_columns
from asr.inference.transcript import Token, Transcript, Word

MAX_CUE_S = 7.0
MAX_LINE_CHARACTERS = 42
"""Columns of a line; a cue has one or two lines."""
NO_START, NO_END = frozenset("，。、；：？！）》」』】〉”’…％%,.;:?!)]}"), frozenset("（《「『【〈“‘([{")
"""A line begins with none of the first, and ends with none of the second."""
MIN_CUE_S = 0.7
"""A cue stays so long at least, if the next one leaves the time."""
PAUSE_S = 1.0
"""A silence so long between two words parts two cues."""


@dataclasses.dataclass(frozen=True)
class Cue:
    """One subtitle.

    Attributes:
        start_s: when it appears.
        end_s: when it vanishes.
        lines: one or two lines of text.
    """

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def to_text(transcript: Transcript) -> str:
    """Return the text in one line."""
    return f"{transcript.text}\n"


def to_json(transcript: Transcript) -> str:
    """Return the whole transcript as one line of JSON."""
    content = {
        "file": transcript.file,
        "duration_s": round(transcript.duration_s, 3),
        "text": transcript.text,
        "words": [{"word": word.text, **_times(word)} for word in transcript.words],
        "tokens": [{"token": token.text, **_times(token)} for token in transcript.tokens],
        "segments": [
            {"start_s": round(s.start_s, 3), "end_s": round(s.end_s, 3), "text": s.text} for s in transcript.segments
        ],
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def to_srt(transcript: Transcript) -> str:
    """Return SubRip subtitles; without a word, an empty text."""
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_no_arrow(cue)}\n\n"
        for number, cue in enumerate(make_cues(transcript.words), 1)
    )


def to_vtt(transcript: Transcript) -> str:
    """Return WebVTT subtitles, with &, < and > escaped."""
    cues = (
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_escaped(cue)}\n"
        for cue in make_cues(transcript.words)
    )
    return "\n".join(["WEBVTT\n", *cues])


def to_ctm(transcript: Transcript) -> str:
    """Return a CTM line for each word; blanks within the name or a word become underscores."""
    name = _field(transcript.name or Path(transcript.file).stem)
    return "".join(
        f"{name} 1 {word.start_s:.3f} {word.end_s - word.start_s:.3f} {_field(word.text)} {word.confidence:.3f}\n"
        for word in transcript.words
    )


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": to_text,
    "json": to_json,
    "srt": to_srt,
    "vtt": to_vtt,
    "ctm": to_ctm,
}
SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt", "ctm": ".ctm"}
SUBTITLES = ("srt", "vtt")
"""Formats in which the texts of several files cannot follow each other."""


def make_cues(words: Sequence[Word]) -> list[Cue]:
    """Return the words as subtitles that follow each other, each two lines of text at most.

    A cue ends where the next word would make it too long in characters or seconds, and before a pause of a second.
    A word that is too long by itself is split at its tokens.

    Args:
        words: in order.
    """
    groups: list[list[Word]] = []
    for word in (part for whole in words for part in _short_words(whole)):
        if groups and _fits(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    starts = [group[0].start_s for group in groups] + [float("inf")]
    return [
        Cue(start_s, _end(group, start_s, next_start_s), _lines(group))
        for group, start_s, next_start_s in zip(groups, starts, starts[1:], strict=False)
    ]


def join_words(words: Sequence[Word]) -> str:
    """Return the words as a text, with blanks where they belong."""
    return "".join(f" {w.text}" if w.space_before and i else w.text for i, w in enumerate(words))


def _fits(group: list[Word], word: Word) -> bool:
    """Return whether `word` may go into the same cue as `group`."""
    if word.start_s - group[-1].end_s >= PAUSE_S or word.end_s - group[0].start_s > MAX_CUE_S:
        return False
    return max(map(text_columns, _lines([*group, word]))) <= MAX_LINE_CHARACTERS


def _lines(group: list[Word]) -> tuple[str, ...]:
    """Return the text of a cue; what is too long for one line is parted where the two are most alike.

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
    for i, part in enumerate(parts):
        yield Word(part.text, part.start_s, part.end_s, part.confidence, space_before=word.space_before and i == 0)


def _characters(part: Token | Word) -> Sequence[Token | Word]:
    """Return a token; if it is too long and has wide characters, its characters, the time spread evenly over them."""
    text, duration_s = part.text, part.end_s - part.start_s
    if _is_short(text, duration_s) or not any(text_columns(c) == 2 for c in text):
        return (part,)
    edges = [part.start_s + duration_s * i / len(text) for i in range(len(text) + 1)]
    return [Token(c, *edges[i : i + 2], part.confidence) for i, c in enumerate(text)]


def _is_short(text: str, duration_s: float) -> bool:
    return text_columns(text) <= MAX_LINE_CHARACTERS and duration_s <= MAX_CUE_S


def _field(text: str) -> str:
    """Return a text as one field of a line."""
    return re.sub(r"\s", "_", text)


def _times(item: Word | Token) -> dict[str, float]:
    return {
        "start_s": round(item.start_s, 3),
        "end_s": round(item.end_s, 3),
        "confidence": round(item.confidence, 4),
    }


def _clock(seconds: float, point: str) -> str:
    """Return hours:minutes:seconds and milliseconds, as in 01:02:03,004."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{milliseconds:03d}"


def _escaped(cue: Cue) -> str:
    return html.escape("\n".join(cue.lines), quote=False)


def _no_arrow(cue: Cue) -> str:
    """Return the text of a cue, without the arrow that SubRip takes for a line of times and cannot escape."""
    return "\n".join(cue.lines).replace("-->", "->")
