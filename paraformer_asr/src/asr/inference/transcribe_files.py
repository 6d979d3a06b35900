"""Transcribes sound files one after the other: reads, splits, recognises, and goes on after a file that is broken.

What comes of unusual sound:

    silence of any length           an empty transcript, and a line on stderr that says so
    shorter than one window         the same (`features.frame_length_ms`, 25 ms)
    the model finds no word         the same, with the length and the level of what it was given
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

from asr.data.sounds.audio import audio_duration_s, iterate_audio
from asr.errors import UserError
from asr.files import refuses_all
from asr.inference.formats import join_words
from asr.inference.output import Job
from asr.inference.segmentation import longest_segment, split_at_silences
from asr.inference.shapes import plan_shapes
from asr.inference.transcriber import Recognition, Transcriber
from asr.inference.transcript import SegmentText, Token, Transcript, Word
from asr.inference.words import make_tokens, make_words, needs_space
from asr.untrusted import escaped, indented

NO_SOUND = np.zeros(0, np.float32)


@dataclasses.dataclass
class Outcome:
    """What became of the files.

    Attributes:
        num_done: files transcribed.
        num_bad: files that are broken, or whose transcript cannot be written; each was named on stderr.
        sound_s: seconds of sound in those that were transcribed.
        seconds: from the first file read to the last result handed over, without the compilation.
        num_compiled: programs compiled before the first segment.
        compile_s: that this took.
        num_compiled_late: programs compiled afterwards.
        longest_s: seconds of the longest file that was transcribed.
    """

    num_done: int = 0
    num_bad: int = 0
    sound_s: float = 0.0
    seconds: float = 0.0
    num_compiled: int = 0
    compile_s: float = 0.0
    num_compiled_late: int = 0
    longest_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a segment, or the end of a file, lies: what the recogniser hands through.

    Attributes:
        job: the file.
        start: first sample of the segment; at the end of a file their number.
        stop: behind the last sample.
        is_end: no sound, but the mark behind the last segment of a file.
        error: what is wrong with the file, said at its end.
        heard: what was read of the file, complete at its end.
    """

    job: Job
    start: int
    stop: int
    is_end: bool = False
    error: str = ""
    heard: "_Heard | None" = None


def transcribe_files(
    transcriber: Transcriber, jobs: Sequence[Job], hand_over: Callable[[Job, Transcript], None], outcome: Outcome
) -> None:
    """Transcribe all jobs; the segments of several files share batches, the results come in order.

    Args:
        transcriber: the model.
        jobs: what to read.
        hand_over: called with each transcript; a UserError of it is named on stderr, and the other files are done.
        outcome: counts the files, also up to an exception.

    Raises:
        UserError: the disk is full, or refuses every file for another reason.
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
            error = place.error or _refusal(hand_over, place.job, transcript)
            if error:
                outcome.num_bad += 1
                where = f" ({place.job.where})" if place.job.where else ""
                bar.write(indented(f"error: {error}{where}"), file=sys.stderr)
            else:
                if not transcript.text:
                    bar.write(f"{job_label(place.job)}: {place.heard.why_empty()}", file=sys.stderr)
                outcome.num_done += 1
                outcome.sound_s += transcript.duration_s
                outcome.longest_s = max(outcome.longest_s, transcript.duration_s)
            bar.update()
    outcome.seconds = time.perf_counter() - start - outcome.compile_s
    outcome.num_compiled_late = transcriber.compilations - compiled


def _refusal(hand_over: Callable[[Job, Transcript], None], job: Job, transcript: Transcript) -> str:
    """Hand a transcript over; return why this one cannot be written, its name being too long for example."""
    try:
        hand_over(job, transcript)
    except UserError as error:
        if refuses_all(error):
            raise
        return str(error)
    return ""


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
    if job.span.duration_s is not None:
        return job.span.duration_s
    try:
        return audio_duration_s(job.source, unknown=3600.0)
    except UserError:
        return 0.0


def _read_segments(transcriber: Transcriber, jobs: Sequence[Job]) -> Iterator[tuple[_Place, np.ndarray]]:
    """Yield the segments of each file, and behind them its end."""
    rate_hz, settings = transcriber.config.features.sample_rate_hz, transcriber.config.inference
    channel = transcriber.config.data.channel
    for job in jobs:
        error, heard = "", _Heard(iterate_audio(job.source, rate_hz, channel=channel, span=job.span), rate_hz)
        try:
            for segment in split_at_silences(heard, rate_hz, settings):
                heard.add(segment.wave)
                yield _Place(job, segment.start, segment.start + len(segment.wave)), segment.wave
        except UserError as found:
            error = str(found)
        yield _Place(job, heard.num_samples, heard.num_samples, is_end=True, error=error, heard=heard), NO_SOUND


class _Heard:
    """Blocks of the sound of a file, measured while they pass, and how much of them is in segments.

    Attributes:
        num_samples: of the blocks that have passed.
    """

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
        """Count a segment that the model is given."""
        self._in_segments += len(wave)
        self._energy += float(np.square(wave, dtype=np.float64).sum())

    def why_empty(self) -> str:
        """Return why the transcript of the file is empty: silence, or a model that found no word in the sound."""
        if not self._in_segments:
            if self._low == self._high:
                return f"no speech: silent, every sample is {self._low or 0:.3g}"
            peak = max(abs(self._low), abs(self._high))
            return f"no speech: silent, its peak is {_decibels(peak):.0f} dBFS"
        level_db = _decibels(math.sqrt(self._energy / self._in_segments))
        sound_s = self._in_segments / self.rate_hz
        return f"no text: the model wrote nothing for {sound_s:.1f} s of sound at {level_db:.0f} dBFS"


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1e-10))


def job_label(job: Job) -> str:
    """Return what messages call a sound; control characters are no part of it."""
    return escaped(job.label or str(job.source))


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
        job = place.job
        return Transcript(job.label or str(job.source), duration_s, text, *parts, name=job.name)
