"""Transcribes sound files one after the other: reads, splits, recognises, and goes on after a file that is broken.

What comes of unusual sound:

    silence of any length           an empty transcript
    shorter than one window         an empty transcript (`features.frame_length_ms`, 25 ms)
    any bit depth, rate, channels   converted to one channel at the model's rate
    clipped, or with an offset      transcribed as it is; an offset does not pass for sound
    broken, wholly or from a place  named on stderr, no transcript, not even of the part before; the others are done
"""

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from asr.data.audio import audio_duration_s, iterate_audio
from asr.errors import UserError
from asr.inference.formats import join_words
from asr.inference.output import Job
from asr.inference.segmentation import longest_segment, split_at_silences
from asr.inference.shapes import plan_shapes
from asr.inference.transcriber import Recognition, Transcriber
from asr.inference.transcript import SegmentText, Token, Transcript, Word
from asr.inference.words import make_tokens, make_words, needs_space

NO_SOUND = np.zeros(0, np.float32)


@dataclasses.dataclass
class Outcome:
    """What became of the files.

    Attributes:
        num_done: files transcribed.
        num_bad: files that are broken; each was named on stderr.
        sound_s: seconds of sound in those that were transcribed.
        seconds: from the first file read to the last result handed over, without the compilation.
        num_compiled: programs compiled before the first segment.
        compile_s: that this took.
        num_compiled_late: programs compiled afterwards.
    """

    num_done: int = 0
    num_bad: int = 0
    sound_s: float = 0.0
    seconds: float = 0.0
    num_compiled: int = 0
    compile_s: float = 0.0
    num_compiled_late: int = 0


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a segment, or the end of a file, lies: what the recogniser hands through.

    Attributes:
        job: the file.
        start: first sample of the segment; at the end of a file their number.
        stop: behind the last sample.
        is_end: no sound, but the mark behind the last segment of a file.
        error: what is wrong with the file, said at its end.
    """

    job: Job
    start: int
    stop: int
    is_end: bool = False
    error: str = ""


def transcribe_files(
    transcriber: Transcriber, jobs: Sequence[Job], hand_over: Callable[[Job, Transcript], None], outcome: Outcome
) -> None:
    """Transcribe all jobs; the segments of several files share batches, the results come in order.

    Args:
        transcriber: the model.
        jobs: what to read.
        hand_over: called with each transcript.
        outcome: counts the files, also up to an exception.
    """
    start = time.perf_counter()
    items = _read_segments(transcriber, jobs)
    first = list(_first_window(items, transcriber.window_size))
    _warm_up(transcriber, jobs, [wave for _, wave in first], outcome)
    compiled = transcriber.compilations
    with tqdm(total=len(jobs), unit="file", disable=None, file=sys.stderr) as bar:
        growing = _Growing(transcriber)
        for place, recognition in transcriber.recognise_many(itertools.chain(first, items)):
            if not place.is_end:
                growing.add(place, recognition)
                continue
            transcript, growing = growing.finish(place), _Growing(transcriber)
            if place.error:
                outcome.num_bad += 1
                bar.write(f"error: {place.error}", file=sys.stderr)
            else:
                hand_over(place.job, transcript)
                outcome.num_done += 1
                outcome.sound_s += transcript.duration_s
            bar.update()
    outcome.seconds = time.perf_counter() - start - outcome.compile_s
    outcome.num_compiled_late = transcriber.compilations - compiled


def _first_window(items: Iterator[tuple["_Place", np.ndarray]], size: int) -> Iterator[tuple["_Place", np.ndarray]]:
    """Yield the items up to the `size`-th segment, or all if there are fewer."""
    for item in items:
        yield item
        size -= not item[0].is_end
        if not size:
            return


def _warm_up(transcriber: Transcriber, jobs: Sequence[Job], first: list[np.ndarray], outcome: Outcome) -> None:
    """Compile what will be needed: for the segments of the first window if they are all, else by the files' headers."""
    start, before = time.perf_counter(), transcriber.compilations
    features, settings = transcriber.config.features, transcriber.config.inference
    rate_hz, lengths = features.sample_rate_hz, [len(wave) for wave in first if len(wave)]
    if len(lengths) == transcriber.window_size:
        lengths = [math.ceil(_duration_s(job) * rate_hz) for job in jobs]
    longest = longest_segment(rate_hz, settings)
    transcriber.warm_up(plan_shapes(lengths, longest, settings.batch_size, rate_hz))
    outcome.num_compiled, outcome.compile_s = transcriber.compilations - before, time.perf_counter() - start


def _duration_s(job: Job) -> float:
    """Return the length by the header; an hour where it is unknown, 0 where the file is broken, which is said later."""
    try:
        return audio_duration_s(job.source, unknown=3600.0)
    except UserError:
        return 0.0


def _read_segments(transcriber: Transcriber, jobs: Sequence[Job]) -> Iterator[tuple[_Place, np.ndarray]]:
    """Yield the segments of each file, and behind them its end."""
    rate_hz, settings = transcriber.config.features.sample_rate_hz, transcriber.config.inference
    for job in jobs:
        error, counted = "", _Counted(iterate_audio(job.source, rate_hz))
        try:
            for segment in split_at_silences(counted, rate_hz, settings):
                yield _Place(job, segment.start, segment.start + len(segment.wave)), segment.wave
        except UserError as found:
            error = str(found)
        yield _Place(job, counted.num_samples, counted.num_samples, is_end=True, error=error), NO_SOUND


class _Counted:
    """Blocks of sound, counted while they pass."""

    def __init__(self, blocks: Iterator[np.ndarray]):
        self.blocks, self.num_samples = blocks, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            self.num_samples += len(block)
            yield block


class _Growing:
    """The transcript of a file whose segments come one after the other."""

    def __init__(self, transcriber: Transcriber):
        self.tokenizer, self.rate_hz = transcriber.tokenizer, transcriber.config.features.sample_rate_hz
        self.words: list[Word] = []
        self.tokens: list[Token] = []
        self.segments: list[SegmentText] = []

    def add(self, place: _Place, recognition: Recognition) -> None:
        """Add a segment, its times shifted to those of the file."""
        start_s, end_s = place.start / self.rate_hz, place.stop / self.rate_hz
        times_s = (np.minimum(start_s + times, end_s) for times in (recognition.start_s, recognition.end_s))
        ids, tokens = make_tokens(self.tokenizer, recognition.ids, *times_s, recognition.confidence)
        words = list(make_words(self.tokenizer, ids, tokens))
        if words and self.words:
            words[0] = dataclasses.replace(words[0], space_before=needs_space(self.words[-1].text, words[0].text))
        self.words += words
        self.tokens += tokens
        self.segments.append(SegmentText(start_s, end_s, join_words(words)))

    def finish(self, place: _Place) -> Transcript:
        """Return the transcript of the whole file."""
        text, duration_s = join_words(self.words), place.stop / self.rate_hz
        parts = (tuple(part) for part in (self.words, self.tokens, self.segments))
        return Transcript(str(place.job.source), duration_s, text, *parts)
