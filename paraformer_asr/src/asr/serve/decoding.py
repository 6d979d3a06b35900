"""Decodes uploads in a few processes of their own, with limits on bytes, samples, time and memory.

A process that crashes or takes too long is replaced; only the upload that it was decoding fails.
"""

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from asr.config import Config
from asr.config.reader import to_plain
from asr.inference.segmentation import Segment
from asr.serve.metrics import Metrics
from asr.serve.settings import ServeSettings

SOURCE_FOLDER = Path(__file__).parents[2]
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT", "VIRTUAL_ENV")
"""Variables of the environment that a worker gets: none that may hold a key."""
MAX_HEADER_BYTES = 16 << 20
"""Longest line of an answer; of hours of sound it has a megabyte."""
MEMORY = 0.9
"""Weight of the past in the running mean of the time to decode."""
START_TIMEOUT_S = 120.0
"""Time for a process to import what it needs; a second on a machine that is not busy."""
DEATHS = (OSError, ValueError, TypeError, AttributeError)
"""Errors of a process that died while it read or wrote, or answered nonsense."""
LIMITS = ("decode_timeout_s", "decode_memory_bytes", "max_sound_s", "max_channels", "min_rate_hz", "max_rate_hz")


class NotSound(Exception):
    """The upload is not a sound, or of a kind that is not decoded."""


class BrokenSound(Exception):
    """The upload is a sound, but cannot be decoded."""


class TooLong(Exception):
    """The decoded sound is longer than the limit."""


class Busy(Exception):
    """Too many uploads wait to be decoded."""


ERRORS = {"not_sound": NotSound, "broken": BrokenSound, "too_long": TooLong}


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """A sound, decoded and cut at its silences.

    Attributes:
        segments: stretches that may hold speech, in order, at the model's rate.
        num_samples: of the whole sound.
        why_empty: why there is no text, if there is none.
        warning: what was wrong with the file although it was decoded.
    """

    segments: tuple[Segment, ...]
    num_samples: int
    why_empty: str = ""
    warning: str = ""


Finder = Callable[[Decoded], Decoded]
"""From a sound in one segment to the segments with speech."""


class DecodePool:
    """Processes that decode uploads. Use it between `start` and `stop`."""

    def __init__(self, config: Config, settings: ServeSettings, metrics: Metrics, find_speech: Finder | None = None):
        """Prepare; `find_speech` makes segments of a whole sound here, instead of cutting it at its silences there."""
        self.settings, self.metrics, self._find_speech = settings, metrics, find_speech
        self._arguments = json.dumps(
            {
                "sample_rate_hz": config.features.sample_rate_hz,
                "channel": config.data.channel,
                "inference": to_plain(config.inference),
                "whole": find_speech is not None,
                **{name: getattr(settings, name) for name in LIMITS},
            }
        )
        self._num_waiting, self._num_expected, self._num_bytes, self._usual_s = 0, 0, 0, 0.0
        self._rate_hz = config.features.sample_rate_hz
        self._max_samples = math.ceil((settings.max_sound_s + 1) * self._rate_hz)
        self._threads: ThreadPoolExecutor | None = None
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the processes; they import what they need while the caller does something else."""
        self._threads = ThreadPoolExecutor(self.settings.decode_workers, "decode")
        self._workers = [_Worker(self._arguments) for _ in range(self.settings.decode_workers)]
        for worker in self._workers:
            self._idle.put(worker)

    def stop(self) -> None:
        """End the processes, after the uploads in them."""
        if self._threads is None:
            return
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._threads = None
        for worker in self._workers:
            worker.end()

    async def decode(self, content: bytes) -> Decoded:
        """Return a file of any kind, decoded.

        Raises:
            NotSound: by its first bytes.
            BrokenSound: it cannot be decoded, or not within the limits.
            TooLong: it is longer than `max_sound_s`.
            Busy: too many uploads wait.
        """
        settings = self.settings
        if not content:
            raise NotSound("the file is empty")
        is_full = self._num_waiting >= settings.decode_waiting
        if is_full or self._num_bytes + len(content) > max(settings.decode_waiting_bytes, len(content)):
            raise Busy("too many uploads wait to be decoded")
        self._count(1, len(content))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, content)
        finally:
            self._count(-1, -len(content))

    async def split(self, pcm: bytes, rate_hz: int) -> Decoded:
        """Return samples that came without a file, int16 in little-endian order of one channel, cut at their silences.

        Raises:
            BrokenSound, TooLong, Busy: as `decode`.
        """
        pcm = pcm[: len(pcm) // 2 * 2]
        if not pcm:
            return Decoded((), 0, "no speech: the sound is empty")
        return await self.decode(wav_header(len(pcm), rate_hz) + pcm)

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Count an upload that is still being received; what comes after it is refused before it is received."""
        self._num_expected += 1
        try:
            yield
        finally:
            self._num_expected -= 1

    def waiting(self) -> tuple[int, float]:
        """Return the number of uploads that are not decoded yet, and the seconds that this will take."""
        number = self._num_waiting + self._num_expected
        is_full = number >= self.settings.decode_waiting
        return number, math.inf if is_full else number * self._usual_s / self.settings.decode_workers

    def _count(self, number: int, num_bytes: int) -> None:
        self._num_waiting += number
        self._num_bytes += num_bytes
        self.metrics.decode_waiting.set(self._num_waiting)

    def _decode(self, content: bytes) -> Decoded:
        """Let the next worker decode; replace its process if that has died."""
        start, worker = time.perf_counter(), self._idle.get()
        try:
            if worker.is_dead:
                self._replace(worker)
            header, wave_n = worker.ask(content, self.settings.decode_timeout_s, self._max_samples)
        except BrokenSound:
            self._replace(worker)
            raise
        finally:
            self._idle.put(worker)
            seconds = time.perf_counter() - start
            self._usual_s = MEMORY * self._usual_s + (1 - MEMORY) * seconds
            self.metrics.decode_s.observe(seconds)
        if "error" in header:
            raise ERRORS[header["error"]](header["message"])
        self.metrics.sound_s.inc(header["num_samples"] / self._rate_hz)
        decoded = _read_answer(header, wave_n)
        return self._find_speech(decoded) if self._find_speech else decoded

    def _replace(self, worker: "_Worker") -> None:
        worker.end()
        worker.start()
        self.metrics.decode_restarts.inc()


class _Worker:
    """One process; its answers are JSON and samples, never pickled objects."""

    def __init__(self, arguments: str):
        self._arguments = arguments
        self.start()

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def start(self) -> None:
        """Start the process."""
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {"PYTHONPATH": str(SOURCE_FOLDER), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._is_ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "asr.serve.decode_worker", self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            process_group=0,  # Ctrl-C is for the server, which ends its workers itself
        )

    def ask(self, content: bytes, timeout_s: float, max_samples: int) -> tuple[dict[str, Any], np.ndarray]:
        """Return the header of an answer and float32[n], the samples of all segments; an error has none.

        Raises:
            BrokenSound: the process died, took too long and was killed, or answered what no decoder answers.
        """
        answer = None
        if not self._is_ready:
            with _killing(self._process, START_TIMEOUT_S):
                self._is_ready = bool(self._process.stdout.readline(MAX_HEADER_BYTES))
        with _killing(self._process, timeout_s) as late, contextlib.suppress(*DEATHS):
            answer = self._exchange(content, max_samples)
        if answer is None:
            self._process.kill()
            is_late = late.is_set() or self._process.wait() == -getattr(signal, "SIGXCPU", 0)
            why = f"not within {timeout_s:g} s" if is_late else "the decoder crashed"
            raise BrokenSound(f"the file could not be decoded: {why}")
        return answer

    def _exchange(self, content: bytes, max_samples: int) -> tuple[dict[str, Any], np.ndarray] | None:
        self._process.stdin.write(json.dumps({"num_bytes": len(content)}).encode() + b"\n")
        self._process.stdin.write(content)
        self._process.stdin.flush()
        header = json.loads(self._process.stdout.readline(MAX_HEADER_BYTES))
        num_samples = sum(header.get("lengths", []))
        if num_samples > max_samples:
            return None
        return header, np.frombuffer(self._process.stdout.read(4 * num_samples), np.float32, num_samples)

    def end(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


@contextlib.contextmanager
def _killing(process: subprocess.Popen, seconds: float) -> Iterator[threading.Event]:
    """Kill a process that is still in the body after so many seconds; yield the event that says so."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def wav_header(num_bytes: int, rate_hz: int) -> bytes:
    """Return the header of a WAV file of 16-bit samples of one channel."""
    start = struct.pack("<4sI4s4sI", b"RIFF", 36 + num_bytes, b"WAVE", b"fmt ", 16)
    return start + struct.pack("<HHIIHH4sI", 1, 1, rate_hz, 2 * rate_hz, 2, 16, b"data", num_bytes)


def _read_answer(header: dict[str, Any], wave_n: np.ndarray) -> Decoded:
    stops = np.cumsum(header["lengths"], dtype=np.int64)
    waves = np.split(wave_n, stops[:-1]) if len(stops) else []
    segments = tuple(Segment(start, wave) for start, wave in zip(header["starts"], waves, strict=True))
    return Decoded(segments, header["num_samples"], header["why_empty"], header["warning"])
