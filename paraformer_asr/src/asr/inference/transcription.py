"""Sound of any length to a transcript: cut at its silences, recognised segment by segment, joined again.

The segments of several sounds share batches. What comes of unusual sound:

    silence of any length           an empty transcript
    shorter than one window         the same (`features.frame_length_ms`, 25 ms)
    the model finds no word         the same
    any bit depth, rate, channels   converted to one channel at the model's rate
    clipped, or with an offset      transcribed as it is; an offset does not count as sound
    broken, wholly or in part       an error, and no transcript, not even of the part before
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from asr.data.text.pieces import is_ideograph
from asr.errors import UserError
from asr.inference.segmentation import split_at_silences
from asr.inference.transcript import SegmentText, Transcript
from asr.inference.words import Token, Word, join_words, make_tokens, make_words

if TYPE_CHECKING:
    from asr.inference.transcriber import Recognition, Transcriber

NO_SOUND = np.zeros(0, np.float32)


@dataclasses.dataclass(frozen=True)
class Source:
    """A sound to transcribe."""

    blocks: Callable[[], Iterator[np.ndarray]]  # returns its samples, float32[n] at the model's rate, in blocks
    file: str  # what the transcript calls it
    name: str = ""  # of its results, see `Transcript`
    tag: Any = None  # the caller's
    channel: int | None = None  # the only channel of it, from 1, where each has a transcript of its own


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one sound."""

    source: Source  # the sound
    transcript: Transcript  # what was said in it; of no use after an error
    error: str  # why it could not be read, or an empty text
    why_empty: str  # why the transcript is empty, if it is


@dataclasses.dataclass(frozen=True)
class Place:
    """A segment, or the end of a sound: what the recogniser passes through."""

    source: Source  # the sound
    start: int  # first sample of the segment; at the end of a sound their number
    stop: int  # behind the last sample
    heard: "Heard | None" = None  # what was read of the sound; None but at its end
    error: str = ""  # why the sound could not be read to its end

    @property
    def is_end(self) -> bool:
        """Whether this is the mark behind the last segment of a sound."""
        return self.heard is not None


def read_segments(transcriber: "Transcriber", sources: Iterable[Source]) -> Iterator[tuple[Place, np.ndarray]]:
    """Yield (place, wave) of the segments of each sound, and after them its end."""
    rate_hz, settings = transcriber.config.features.sample_rate_hz, transcriber.config.inference
    for source in sources:
        error, heard = "", Heard(source.blocks(), rate_hz)
        try:
            for segment in split_at_silences(heard, rate_hz, settings):
                heard.add(segment.wave)
                yield Place(source, segment.start, segment.start + len(segment.wave)), segment.wave
        except UserError as problem:
            error = str(problem)
        yield Place(source, heard.num_samples, heard.num_samples, heard, error), NO_SOUND


def transcribe_segments(transcriber: "Transcriber", items: Iterable[tuple[Place, np.ndarray]]) -> Iterator[Outcome]:
    """Yield what becomes of each sound, in order; `items` as from `read_segments`."""
    growing = GrowingTranscript(transcriber)
    for place, recognition in transcriber.recognise_many(items):
        if place.is_end:
            transcript = growing.finish(place.stop, place.source.file, place.source.name)
            transcript = dataclasses.replace(transcript, channel=place.source.channel)
            why_empty = "" if transcript.text else place.heard.why_empty()
            yield Outcome(place.source, transcript, place.error, why_empty)
            growing = GrowingTranscript(transcriber)
        else:
            growing.add(place.start, place.stop, recognition)


class Heard:
    """Blocks of a sound, measured while they pass, and how much of them is in segments."""

    def __init__(self, blocks: Iterator[np.ndarray], rate_hz: int):
        self.blocks, self.rate_hz = blocks, rate_hz
        self.num_samples, self._low, self._high = 0, math.inf, -math.inf
        self._in_segments, self._energy = 0, 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            self.num_samples += len(block)
            self._low = min(self._low, float(block.min(initial=math.inf)))
            self._high = max(self._high, float(block.max(initial=-math.inf)))
            yield block

    def add(self, wave: np.ndarray) -> None:
        """Count a segment."""
        self._in_segments += len(wave)
        self._energy += float(np.square(wave, dtype=np.float64).sum())

    def why_empty(self) -> str:
        """Return why the transcript is empty: silence, or a model that found no word in the sound."""
        if not self._in_segments:
            if self._low == self._high:
                return f"no speech: silent, every sample is {self._low or 0:.3g}"
            peak = max(abs(self._low), abs(self._high))
            return f"no speech: silent, its peak is {_decibels(peak):.0f} dBFS"
        level_db = _decibels(math.sqrt(self._energy / self._in_segments))
        sound_s = self._in_segments / self.rate_hz
        return f"no text: the model wrote nothing for {sound_s:.1f} s of sound at {level_db:.0f} dBFS"


def needs_space(before: str, after: str) -> bool:
    """Return whether a blank belongs between two segments: not between Chinese or Japanese characters or signs."""
    return bool(before and after) and not (_without_blank(before[-1]) and _without_blank(after[0]))


def _without_blank(character: str) -> bool:
    return is_ideograph(character) or "\u3000" <= character <= "\u303f" or "\uff00" <= character <= "\uff9f"


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1e-10))


class GrowingTranscript:
    """The transcript of a sound whose segments arrive one by one."""

    def __init__(self, transcriber: "Transcriber"):
        self.tokenizer, self.rate_hz = transcriber.tokenizer, transcriber.config.features.sample_rate_hz
        self.words: list[Word] = []
        self.tokens: list[Token] = []
        self.segments: list[SegmentText] = []

    def add(self, start: int, stop: int, recognition: "Recognition") -> None:
        """Add the segment from sample `start` to `stop`, its times shifted to those of the sound."""
        start_s, end_s = start / self.rate_hz, stop / self.rate_hz
        times_s = (np.minimum(start_s + times, end_s) for times in (recognition.start_s, recognition.end_s))
        ids, tokens = make_tokens(self.tokenizer, recognition.ids, *times_s, recognition.confidence)
        words = list(make_words(self.tokenizer, ids, tokens))
        if words and self.words:
            words[0] = dataclasses.replace(words[0], space_before=needs_space(self.words[-1].text, words[0].text))
        self.words += words
        self.tokens += tokens
        self.segments.append(SegmentText(start_s, end_s, join_words(words)))

    def finish(self, num_samples: int, file: str, name: str = "") -> Transcript:
        """Return the transcript of the whole sound, of `num_samples` samples."""
        parts = (tuple(part) for part in (self.words, self.tokens, self.segments))
        return Transcript(file, num_samples / self.rate_hz, join_words(self.words), *parts, name=name)
