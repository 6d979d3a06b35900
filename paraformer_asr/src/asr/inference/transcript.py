"""What was said in a sound: text, words and tokens with their times, and the files they are written to.

    text  one line
    json  {"file", perhaps "channel", "duration_s", "text", "words": [{"word", "start_s", "end_s", "confidence"}, …],
          "tokens": [{"token", …}, …], "segments": [{"start_s", "end_s", "text"}, …]} in one line; times in seconds;
          with a punctuation model also "sentences", and where the device failed "failures", see `Failure`. Of
          SenseVoice also "rich", and of a segment "language", "emotion", "event", "tagged"
    srt   numbered cues of at most two lines of 42 columns, and 7 seconds; a Chinese character fills two columns
    vtt   the same cues for browsers
    tsv   a table of the sentences, or of the segments if there is no punctuation model: start_s, end_s, text
    rich  one line with emoji for the emotions and events that SenseVoice hears; of another model, the text
    ctm   a line `name channel start duration word confidence` for each word, as NIST's scoring tools read it

Neither jax nor numpy is imported here, so that `asr infer` answers a mistake at once.
"""

import dataclasses
import html
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asr.errors import UserError
from asr.files import writing_aside
from asr.inference.subtitles import Cue, make_cues
from asr.inference.tags import rich_text
from asr.inference.words import Token, Word, split_sentences

MAX_ROWS = 200  # most segments shown in a notebook


@dataclasses.dataclass(frozen=True)
class SegmentText:
    """What was said in one segment.

    Attributes:
        start_s: when the segment begins, from the start of the sound.
        end_s: when it ends.
        text: its words.
        language: that SenseVoice hears, such as "en"; these four are empty without SenseVoice.
        emotion: such as "HAPPY".
        event: such as "Speech" or "Applause".
        tagged: the text as SenseVoice writes it, with its tags.
    """

    start_s: float
    end_s: float
    text: str
    language: str = ""
    emotion: str = ""
    event: str = ""
    tagged: str = ""

    @property
    def tags(self) -> dict[str, str]:
        """The last four attributes by name; nothing without SenseVoice."""
        named = {name: getattr(self, name) for name in ("language", "emotion", "event", "tagged")}
        return named if self.tagged else {}


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One sentence, with its signs.

    Attributes:
        start_s: when its first word begins, from the start of the sound.
        end_s: when its last word ends.
        text: its words, up to the sign that ends it.
    """

    start_s: float
    end_s: float
    text: str


@dataclasses.dataclass(frozen=True)
class Failure:
    """A segment that could not be recognised.

    Attributes:
        start_s: when the segment begins, from the start of the sound.
        end_s: when it ends.
        reason: what the device said.
    """

    start_s: float
    end_s: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What was said in one sound. A notebook shows it as a table of its sentences, or of its segments.

    Attributes:
        file: the path as it was passed, or what an array is called.
        duration_s: length of the sound.
        text: that of all segments, a blank between two of them.
        words: in order; a word is as certain as its least certain token.
        tokens: in order, without special tokens.
        segments: stretches of sound between silences, in order.
        name: name of the results, different for each of several files; if empty, the stem of the file.
        sentences: in order, of a transcriber with a punctuation model; their words are all words.
        failures: segments that could not be recognised; what was said there is missing.
        channel: the only channel of the sound that this is of, from 1; None where its channels were not separated.
    """

    file: str
    duration_s: float
    text: str
    words: tuple[Word, ...] = ()
    tokens: tuple[Token, ...] = ()
    segments: tuple[SegmentText, ...] = ()
    name: str = ""
    sentences: tuple[Sentence, ...] = ()
    failures: tuple[Failure, ...] = ()
    channel: int | None = None

    def __str__(self):
        return self.text

    @property
    def tagged(self) -> str:
        """The text of all segments with SenseVoice's tags; "" of another model."""
        return " ".join(segment.tagged for segment in self.segments if segment.tagged)

    @property
    def rich(self) -> str:
        """The text with emoji for what SenseVoice hears besides words; the text itself of another model."""
        return rich_text(self.tagged) if self.tagged else self.text

    def to_rich(self) -> str:
        """Return the text with emoji in one line."""
        return f"{self.rich}\n"

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
            **({"rich": self.rich} if self.tagged else {}),
            "words": [{"word": word.text, **_times(word)} for word in self.words],
            "tokens": [{"token": token.text, **_times(token)} for token in self.tokens],
            "segments": [
                {"start_s": round(s.start_s, 3), "end_s": round(s.end_s, 3), "text": s.text, **s.tags}
                for s in self.segments
            ],
            **({"sentences": [_stretch(each) for each in self.sentences]} if self.sentences else {}),
            **({"failures": [_stretch(each) for each in self.failures]} if self.failures else {}),
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
        """Return a table of the sentences, or else the segments, with a header, separated by tabs; times in seconds."""
        stretches = self.sentences or self.segments
        rows = (f"{s.start_s:.3f}\t{s.end_s:.3f}\t{' '.join(s.text.split())}\n" for s in stretches)
        return "".join(["start_s\tend_s\ttext\n", *rows])

    def to_ctm(self) -> str:
        """Return a CTM line for each word, without signs; blanks within the name or a word become underscores."""
        start = f"{_field(self.name or Path(self.file).stem)} {self.channel or 1}"
        lines = (
            f"{start} {word.start_s:.3f} {word.end_s - word.start_s:.3f} {_field(word.letters)} {word.confidence:.3f}"
            for word in self.words
        )
        return "".join(f"{line}\n" for line in lines)

    def save(self, path: str | Path) -> None:
        """Write the transcript in the format of the suffix: .txt, .json, .srt, .vtt, .tsv, .ctm or .rich."""
        path, formats = Path(path), {suffix: name for name, suffix in SUFFIXES.items()}
        if path.suffix.lower() not in formats:
            raise UserError(f"{path}: expected one of the suffixes {', '.join(formats)}")
        write_text(path, FORMATS[formats[path.suffix.lower()]](self))

    def _repr_html_(self) -> str:
        """Return the sentences or segments as a table; pointing at a word shows its time and confidence."""
        rows = itertools.islice(self._rows(), MAX_ROWS)
        shown = [f"<tr><td>{s.start_s:.2f}</td><td>{s.end_s:.2f}</td>{_cell(words)}</tr>" for s, words in rows]
        more, what = len(self.sentences or self.segments) - MAX_ROWS, "sentences" if self.sentences else "segments"
        rest = f"<tr><td></td><td></td><td>… {more} more {what}</td></tr>" if more > 0 else ""
        title = html.escape(f"{self.file} ({self.duration_s:.1f} s)")
        heads = '<tr><th>start</th><th>end</th><th style="text-align:left">text</th></tr>'
        return f"<table><caption>{title}</caption>{heads}{''.join(shown)}{rest}</table>"

    def _rows(self) -> Iterator[tuple[Sentence | SegmentText, Sequence[Word]]]:
        """Yield the sentences, or else the segments, with the words of each."""
        if self.sentences:
            yield from zip(self.sentences, split_sentences(self.words), strict=True)
        for segment in () if self.sentences else self.segments:
            yield segment, [word for word in self.words if segment.start_s <= word.start_s < segment.end_s]


def _cell(words: Sequence[Word]) -> str:
    """Return the words of a row, uncertain ones paler."""
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
    "rich": Transcript.to_rich,
}
SUFFIXES = {"text": ".txt"} | {name: f".{name}" for name in FORMATS if name != "text"}
ONE_FILE_EACH = ("srt", "vtt", "tsv")  # formats in which the results of several sounds cannot follow each other


def write_text(path: Path, text: str) -> None:
    """Write a text file, which appears when it is complete; its folder is made if need be."""
    with writing_aside(path, parents=True) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def _field(text: str) -> str:
    return re.sub(r"\s", "_", text)


def _stretch(item: Sentence | Failure) -> dict[str, Any]:
    about = {"reason": item.reason} if isinstance(item, Failure) else {"text": item.text}
    return {"start_s": round(item.start_s, 3), "end_s": round(item.end_s, 3), **about}


def _times(item: Word | Token) -> dict[str, float]:
    return {"start_s": round(item.start_s, 3), "end_s": round(item.end_s, 3), "confidence": round(item.confidence, 4)}


def _clock(seconds: float, point: str) -> str:
    """Return hours:minutes:seconds and milliseconds, as in 01:02:03,004."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{milliseconds:03d}"


def _no_arrow(cue: Cue) -> str:
    """Return the text of a cue, without the arrow that SubRip takes for a line of times and cannot escape."""
    return "\n".join(cue.lines).replace("-->", "->")
