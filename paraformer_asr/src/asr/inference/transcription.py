"""Sound of any length to a transcript: cut at its silences, recognised segment by segment, joined again.

Silences are found by the level of the sound, or by the transcriber's voice activity detector if it has one.

The segments of several sounds share batches. What comes of unusual sound:

    silence of any length           an empty transcript
    shorter than one window         the same (`features.frame_length_ms`, 25 ms)
    the model finds no word         the same
    any bit depth, rate, channels   converted to one channel at the model's rate
    clipped, or with an offset      transcribed as it is; an offset does not count as sound
    broken, wholly or in part       an error, and no transcript, not even of the part before
    the device fails on a segment   the transcript of the others, and a failure that names the place; an error if it
                                    fails on all of them
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from asr.errors import UserError
from asr.inference.segmentation import split_at_silences
from asr.inference.tags import read_tags
from asr.inference.transcript import Failure, SegmentText, Sentence, Transcript
from asr.inference.typesetting import needs_space
from asr.inference.words import Token, Word, join_words, make_tokens, make_words, split_sentences

if TYPE_CHECKING:
    from asr.inference.hotwords import Hotword
    from asr.inference.punctuation import Punctuator
    from asr.inference.recognition import Recognition
    from asr.inference.transcriber import Transcriber

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
    detector = transcriber.vad
    split = detector.split if detector else split_at_silences
    for source in sources:
        error, heard = "", Heard(source.blocks(), rate_hz, detected=detector is not None)
        try:
            for segment in split(heard, rate_hz, settings):
                heard.add(segment.wave)
                yield Place(source, segment.start, segment.start + len(segment.wave)), segment.wave
        except UserError as problem:
            error = str(problem)
        yield Place(source, heard.num_samples, heard.num_samples, heard, error), NO_SOUND


def transcribe_segments(
    transcriber: "Transcriber", items: Iterable[tuple[Place, np.ndarray]], hotwords: tuple["Hotword", ...] = ()
) -> Iterator[Outcome]:
    """Yield what becomes of each sound, in order; `items` as from `read_segments`."""
    growing = GrowingTranscript(transcriber)
    for place, recognition in transcriber.recognise_many(items, hotwords, keep_failures=True):
        if place.is_end:
            transcript = growing.finish(place.stop, place.source.file, place.source.name)
            transcript = dataclasses.replace(transcript, channel=place.source.channel)
            why_empty = "" if transcript.text or transcript.failures else place.heard.why_empty()
            yield Outcome(place.source, transcript, place.error or _why_lost(transcript), why_empty)
            growing = GrowingTranscript(transcriber)
        else:
            growing.add(place.start, place.stop, recognition)


def _why_lost(transcript: Transcript) -> str:
    """Return why a sound of which every segment failed has no transcript."""
    if not transcript.failures or transcript.segments:
        return ""
    number, reason = len(transcript.failures), transcript.failures[0].reason
    return f"{transcript.file}: none of its segments could be recognised ({number} failed: {reason})"


class Heard:
    """Blocks of a sound, measured while they pass, and how much of them is in segments."""

    def __init__(self, blocks: Iterator[np.ndarray], rate_hz: int, *, detected: bool = False):
        """Measure these blocks; `detected`: a detector finds the segments, so that loud sound may have none."""
        self.blocks, self.rate_hz, self.detected = blocks, rate_hz, detected
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
            peak_db = _decibels(max(abs(self._low), abs(self._high)))
            reason = "the detector found none in sound whose" if self.detected else "silent, its"
            return f"no speech: {reason} peak is {peak_db:.0f} dBFS"
        level_db = _decibels(math.sqrt(self._energy / self._in_segments))
        sound_s = self._in_segments / self.rate_hz
        return f"no text: the model wrote nothing for {sound_s:.1f} s of sound at {level_db:.0f} dBFS"


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1e-10))


class GrowingTranscript:
    """The transcript of a sound whose segments arrive one by one.

    Attributes:
        words: as they were recognised.
        written: as the text has them; with a punctuator those that it has decided, with signs and capitals.
    """

    def __init__(self, transcriber: "Transcriber", punctuator: "Punctuator | None" = None):
        """Write what `transcriber` recognises; `punctuator` is used instead of its own."""
        punctuator = punctuator or transcriber.punctuator
        self.tokenizer, self.rate_hz = transcriber.tokenizer, transcriber.config.features.sample_rate_hz
        self.words: list[Word] = []
        self.tokens: list[Token] = []
        self.segments: list[SegmentText] = []
        self._num_words: list[int] = []  # of each segment
        self._failures: list[Failure] = []
        self._punctuated = punctuator.word_stream() if punctuator else None
        self.written: list[Word] = [] if self._punctuated else self.words
        self._num_pushed = 0

    @property
    def punctuates(self) -> bool:
        """Whether a network puts signs behind the words."""
        return self._punctuated is not None

    def add(self, start: int, stop: int, recognition: "Recognition") -> None:
        """Add the segment from sample `start` to `stop`, its times shifted to those of the sound."""
        start_s, end_s = start / self.rate_hz, stop / self.rate_hz
        if recognition.failure is not None:
            reason = str(recognition.failure).partition("\n")[0] or type(recognition.failure).__name__
            self._failures.append(Failure(start_s, end_s, reason))
            return
        times_s = (np.minimum(start_s + times, end_s) for times in (recognition.start_s, recognition.end_s))
        ids, tokens = make_tokens(self.tokenizer, recognition.ids, *times_s, recognition.confidence)
        words = list(make_words(self.tokenizer, ids, tokens))
        if words and self.words:
            words[0] = dataclasses.replace(words[0], space_before=needs_space(self.words[-1].text, words[0].text))
        self.words += words
        self.tokens += tokens
        tags = read_tags(self.tokenizer.tagged(recognition.ids))
        self.segments.append(SegmentText(start_s, end_s, join_words(words), *tags))
        self._num_words.append(len(words))

    def punctuate(self, *, final: bool = False) -> None:
        """Write what the words added so far decide; at the end of the sound all of them. This runs the network."""
        if self._punctuated:
            new, self._num_pushed = self.words[self._num_pushed :], len(self.words)
            self.written += self._punctuated.push(new)
            if final:
                self.written += self._punctuated.finish()

    def finish(self, num_samples: int, file: str, name: str = "") -> Transcript:
        """Return the transcript of the whole sound, of `num_samples` samples."""
        self.punctuate(final=True)
        return Transcript(
            file,
            num_samples / self.rate_hz,
            join_words(self.written),
            tuple(self.written),
            tuple(self.tokens),
            tuple(self._written_segments()),
            name=name,
            sentences=tuple(map(_sentence, split_sentences(self.written))) if self._punctuated else (),
            failures=tuple(self._failures),
        )

    def _written_segments(self) -> Iterator[SegmentText]:
        rest = iter(self.written)
        for segment, number in zip(self.segments, self._num_words, strict=True):
            yield dataclasses.replace(segment, text=join_words(list(itertools.islice(rest, number))))


def _sentence(words: Sequence[Word]) -> Sentence:
    return Sentence(words[0].start_s, words[-1].end_s, join_words(words))
