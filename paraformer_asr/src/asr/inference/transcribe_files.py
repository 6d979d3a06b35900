"""Transcribes sound files with a progress bar; a broken file is named on stderr, and the rest is done."""

import dataclasses
import functools
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
from asr.inference.hotwords import Hotword
from asr.inference.output import Job
from asr.inference.segmentation import longest_segment
from asr.inference.shapes import plan_shapes
from asr.inference.transcriber import Transcriber
from asr.inference.transcript import Failure, Transcript
from asr.inference.transcription import Place, Source, read_segments, transcribe_segments
from asr.untrusted import escaped, indented


@dataclasses.dataclass
class Totals:
    """What became of all files."""

    num_done: int = 0  # files transcribed
    num_bad: int = 0  # files that are broken, or whose transcript cannot be written; each was named on stderr
    num_incomplete: int = 0  # files transcribed but for segments on which the device failed; each was named on stderr
    sound_s: float = 0.0  # seconds of sound in those that were transcribed
    seconds: float = 0.0  # from the first file read to the last result handed over, without the compilation
    num_compiled: int = 0  # programs compiled before the first segment
    compile_s: float = 0.0  # seconds that this took
    num_compiled_late: int = 0  # programs compiled afterwards
    longest_s: float = 0.0  # seconds of the longest file that was transcribed

    def add(self, transcript: Transcript) -> None:
        """Count a file that was transcribed."""
        self.num_done += 1
        self.num_incomplete += bool(transcript.failures)
        self.sound_s += transcript.duration_s
        self.longest_s = max(self.longest_s, transcript.duration_s)


def transcribe_files(
    transcriber: Transcriber,
    jobs: Sequence[Job],
    hand_over: Callable[[Job, Transcript], None],
    totals: Totals,
    hotwords: tuple[Hotword, ...] = (),
) -> None:
    """Transcribe all jobs; the results come in order.

    `hand_over` is called with each transcript; its UserError is printed to stderr, and the other files are done.
    `totals` counts the files, also up to an exception. `hotwords` are preferred in all of them.

    Raises:
        UserError: the disk is full, or refuses every file for another reason.
    """
    start = time.perf_counter()
    items = read_segments(transcriber, (_source(transcriber, job) for job in jobs))
    first = list(_first_window(items, transcriber.window_size))
    _warm_up(transcriber, jobs, [wave for _, wave in first], totals, hotwords)
    compiled = transcriber.compilations
    with tqdm(total=len(jobs), unit="file", disable=None, file=sys.stderr) as bar:
        for outcome in transcribe_segments(transcriber, itertools.chain(first, items), hotwords):
            job, transcript = outcome.source.tag, outcome.transcript
            error = outcome.error or _refusal(hand_over, job, transcript)
            if error:
                totals.num_bad += 1
                where = f" ({job.where})" if job.where else ""
                bar.write(indented(f"error: {error}{where}"), file=sys.stderr)
            else:
                for remark in filter(None, [*map(_shown, transcript.failures), outcome.why_empty]):
                    bar.write(f"{escaped(job.label or str(job.source))}: {remark}", file=sys.stderr)
                totals.add(transcript)
            bar.update()
    totals.seconds = time.perf_counter() - start - totals.compile_s
    totals.num_compiled_late = transcriber.compilations - compiled


def _shown(failure: Failure) -> str:
    return f"{failure.start_s:.1f} to {failure.end_s:.1f} s could not be recognised ({escaped(failure.reason)})"


def _source(transcriber: Transcriber, job: Job) -> Source:
    config = transcriber.config
    channel = config.data.channel if job.channel is None else job.channel
    options = {"channel": channel, "span": job.span}
    blocks = functools.partial(iterate_audio, job.source, config.features.sample_rate_hz, **options)
    return Source(blocks, job.label or str(job.source), job.name, job, job.channel)


def _refusal(hand_over: Callable[[Job, Transcript], None], job: Job, transcript: Transcript) -> str:
    """Hand a transcript over; return why this one cannot be written, its name being too long for example."""
    try:
        hand_over(job, transcript)
    except UserError as error:
        if refuses_all(error):
            raise
        return str(error)
    return ""


def _first_window(items: Iterator[tuple[Place, np.ndarray]], size: int) -> Iterator[tuple[Place, np.ndarray]]:
    """Yield the items up to the `size`-th segment, or all if there are fewer."""
    for item in items:
        yield item
        size -= not item[0].is_end
        if not size:
            return


def _warm_up(
    transcriber: Transcriber,
    jobs: Sequence[Job],
    first: list[np.ndarray],
    totals: Totals,
    hotwords: tuple[Hotword, ...],
) -> None:
    """Compile what will be needed: for the segments of the first window if they are all, else by the files' headers."""
    start, before = time.perf_counter(), transcriber.compilations
    features, settings = transcriber.config.features, transcriber.config.inference
    rate_hz, lengths = features.sample_rate_hz, [len(wave) for wave in first if len(wave)]
    if len(lengths) == transcriber.window_size:
        lengths = [math.ceil(_duration_s(job) * rate_hz) for job in jobs]
    longest = longest_segment(rate_hz, settings)
    transcriber.warm_up(plan_shapes(lengths, longest, settings.batch_size, rate_hz), hotwords)
    totals.num_compiled, totals.compile_s = transcriber.compilations - before, time.perf_counter() - start


def _duration_s(job: Job) -> float:
    """Return the length by the header; an hour if it is unknown, 0 if the file is broken, which is reported later."""
    if job.span.duration_s is not None:
        return job.span.duration_s
    try:
        return audio_duration_s(job.source, unknown=3600.0)
    except UserError:
        return 0.0
