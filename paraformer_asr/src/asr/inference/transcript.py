"""What was said in a sound: text, words and tokens with their times, and the files they are written to.

    text  one line
    json  {"file", perhaps "channel", "duration_s", "text", "words": [{"word", "start_s", "end_s", "confidence"}, …],
          "tokens": [{"token", …}, …], "segments": [{"start_s", "end_s", "text"}, …]} in one line; times in seconds
    srt   numbered cues of at most two lines of 42 columns, and 7 seconds; a Chinese character fills two columns
    vtt   the same cues for browsers
    tsv   a table of the segments: start_s, end_s, text
    ctm   a line `name channel start duration word confidence` for each word, as NIST's scoring tools read it

Neither jax nor numpy is imported here, so that `asr infer` answers a mistake at once.
"""

import dataclasses
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr.errors import UserError
from asr.files import writing_aside
from asr.inference.subtitles import Cue, make_cues
from asr.inference.words import Token, Word

MAX_ROWS = 200  # most segments shown in a notebook


@dataclasses.dataclass(frozen=True)
class SegmentText:
    """What was said in one segment.

    Attributes:
        start_s: when the segment begins, from the start of the sound.
        end_s: when it ends.
        text: its words.
    """

    start_s: float
    end_s: float
    text: str


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What was said in one sound. A notebook shows it as a table of its segments.

    Attributes:
        file: the path as it was passed, or what an array is called.
        duration_s: length of the sound.
        text: that of all segments, a blank between two of them.
        words: in order; a word is as certain as its least certain token.
        tokens: in order, without special tokens.
        segments: stretches of sound between silences, in order.
        name: name of the results, different for each of several files; if empty, the stem of the file.
        channel: the only channel of the sound that this is of, from 1; None where its channels were not separated.
    """

    file: str
    duration_s: float
    text: str
    words: tuple[Word, ...] = ()
    tokens: tuple[Token, ...] = ()
    segments: tuple[SegmentText, ...] = ()
    name: str = ""
    channel: int | None = None

    def __str__(self):
        return self.text

    def to_text(self) -> str:
        """Return the text in one line."""
        return f"{self.text}\n"

    def to_plain(self) -> dict[str, Any]:
        """Return the whole transcript as values of JSON; times in seconds."""
        return {
            "file": self.file,
            **({} if self.channel is None else {"channel": self.channel}),
            "duration_s": round(self.duration_s, 3),
            "text": self.text,
            "words": [{"word": word.text, **_times(word)} for word in self.words],
            "tokens": [{"token": token.text, **_times(token)} for token in self.tokens],
            "segments": [
                {"start_s": round(s.start_s, 3), "end_s": round(s.end_s, 3), "text": s.text} for s in self.segments
            ],
        }

    def to_json(self) -> str:
        """Return the whole transcript as one line of JSON."""
        return json.dumps(self.to_plain(), ensure_ascii=False) + "\n"

    def to_srt(self) -> str:
        """Return SubRip subtitles; without a word, an empty text."""
        return "".join(
            f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_no_arrow(cue)}\n\n"
            for number, cue in enumerate(make_cues(self.words), 1)
        )

    def to_vtt(self) -> str:
        """Return WebVTT subtitles, with &, < and > escaped."""
        cues = (
            f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
            f"{html.escape(chr(10).join(cue.lines), quote=False)}\n"
            for cue in make_cues(self.words)
        )
        return "\n".join(["WEBVTT\n", *cues])

    def to_tsv(self) -> str:
        """Return a table of the segments with a header, separated by tabs; times in seconds."""
        rows = (f"{s.start_s:.3f}\t{s.end_s:.3f}\t{' '.join(s.text.split())}\n" for s in self.segments)
        return "".join(["start_s\tend_s\ttext\n", *rows])

    def to_ctm(self) -> str:
        """Return a CTM line for each word; blanks within the name or a word become underscores."""
        start = f"{_field(self.name or Path(self.file).stem)} {self.channel or 1}"
        return "".join(
            f"{start} {word.start_s:.3f} {word.end_s - word.start_s:.3f} {_field(word.text)} {word.confidence:.3f}\n"
            for word in self.words
        )

    def save(self, path: str | Path) -> None:
        """Write the transcript in the format of the suffix: .txt, .json, .srt, .vtt, .tsv or .ctm."""
        path, formats = Path(path), {suffix: name for name, suffix in SUFFIXES.items()}
        if path.suffix.lower() not in formats:
            raise UserError(f"{path}: expected one of the suffixes {', '.join(formats)}")
        write_text(path, FORMATS[formats[path.suffix.lower()]](self))

    def _repr_html_(self) -> str:
        """Return the segments as a table; pointing at a word shows its time and confidence."""
        shown, more = self.segments[:MAX_ROWS], len(self.segments) - MAX_ROWS
        rows = [f"<tr><td>{s.start_s:.2f}</td><td>{s.end_s:.2f}</td>{self._cell(s)}</tr>" for s in shown]
        rest = f"<tr><td></td><td></td><td>… {more} more segments</td></tr>" if more > 0 else ""
        title = html.escape(f"{self.file} ({self.duration_s:.1f} s)")
        heads = '<tr><th>start</th><th>end</th><th style="text-align:left">text</th></tr>'
        return f"<table><caption>{title}</caption>{heads}{''.join(rows)}{rest}</table>"

    def _cell(self, segment: SegmentText) -> str:
        """Return the words of a segment, uncertain ones paler."""
        words = [word for word in self.words if segment.start_s <= word.start_s < segment.end_s]
        spans = (
            f'{" " if word.space_before and number else ""}<span style="opacity:{0.4 + 0.6 * word.confidence:.2f}" '
            f'title="{word.start_s:.2f}–{word.end_s:.2f} s, confidence {word.confidence:.2f}">'
            f"{html.escape(word.text)}</span>"
            for number, word in enumerate(words)
        )
        return f'<td style="text-align:left">{"".join(spans)}</td>'


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": Transcript.to_text,
    "json": Transcript.to_json,
    "srt": Transcript.to_srt,
    "vtt": Transcript.to_vtt,
    "tsv": Transcript.to_tsv,
    "ctm": Transcript.to_ctm,
}
SUFFIXES = {"text": ".txt"} | {name: f".{name}" for name in FORMATS if name != "text"}
ONE_FILE_EACH = ("srt", "vtt", "tsv")  # formats in which the results of several sounds cannot follow each other


def write_text(path: Path, text: str) -> None:
    """Write a text file, which appears when it is complete; its folder is made if need be."""
    with writing_aside(path, parents=True) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def _field(text: str) -> str:
    return re.sub(r"\s", "_", text)


def _times(item: Word | Token) -> dict[str, float]:
    return {"start_s": round(item.start_s, 3), "end_s": round(item.end_s, 3), "confidence": round(item.confidence, 4)}


def _clock(seconds: float, point: str) -> str:
    """Return hours:minutes:seconds and milliseconds, as in 01:02:03,004."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{milliseconds:03d}"


def _no_arrow(cue: Cue) -> str:
    """Return the text of a cue, without the arrow that SubRip takes for a line of times and cannot escape."""
    return "\n".join(cue.lines).replace("-->", "->")
