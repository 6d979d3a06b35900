"""A live stream on the side of the thread that hears: its sound, its rules, and the chunk that waits for a step."""

import collections
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from asr.inference.recognition import Recognition
from asr.inference.stream import StreamSession
from asr.inference.stream_segment import ChunkWork, Work

SLICE_S = 0.6
"""Sound that the rules look at in one go: a stream with much of it does not delay the others."""


@dataclasses.dataclass(frozen=True, eq=False)
class Heard:
    """What the thread hands over: a work, and the end of a sound.

    Attributes:
        heard_s: how much of the stream was heard before.
        work: that was asked for; None: the sound has ended.
        recognition: of a chunk; a segment is still to be recognised.
    """

    heard_s: float
    work: Work | None = None
    recognition: Recognition | None = None


class LiveStream:
    """One client's stream in its slot. `push` is for the client's thread, `advance` and `take` for the one that hears.

    Attributes:
        slot: of the compiled step.
        pushed_s, heard_s: seconds of sound that arrived, and that the rules have looked at.
        chunk: what waits for a step.
        is_open: neither closed nor failed.
        is_within: a segment has begun, so that the slot holds its state.
    """

    def __init__(
        self,
        slot: int,
        rate_hz: int,
        begin: Callable[[], StreamSession],
        deliver: Callable[[Heard | Exception], None],
    ):
        """Hear sound of `rate_hz`; `begin` returns the rules of a new sound, `deliver` is called with what is heard."""
        self.slot, self.rate_hz, self.deliver = slot, rate_hz, deliver
        self._begin = begin
        self._session: StreamSession | None = None
        self._slices: collections.deque[tuple[np.ndarray, bool]] = collections.deque()
        self._works: Iterator[Work] | None = None
        self._slice_s, self._is_last = 0.0, False
        self.pushed_s = self.heard_s = 0.0
        self.chunk: ChunkWork | None = None
        self.is_open, self.is_within = True, False

    @property
    def can_advance(self) -> bool:
        """Whether the rules have something to look at before the next step."""
        return self.chunk is None and (self._works is not None or bool(self._slices))

    def push(self, samples_n: np.ndarray, is_last: bool) -> None:
        """Add int16[n] samples; with `is_last` the sound ends behind them."""
        size = round(SLICE_S * self.rate_hz)
        slices = [samples_n[start : start + size] for start in range(0, len(samples_n), size)]
        if is_last or slices:
            rest = slices or [samples_n]
            self._slices.extend((part_n, is_last and part_n is rest[-1]) for part_n in rest)
        self.pushed_s += len(samples_n) / self.rate_hz

    def advance(self) -> None:
        """Let the rules look at the sound, at most one slice, until a chunk waits for a step."""
        if not (self.is_open and self.can_advance):
            return
        if self._works is None:
            samples_n, self._is_last = self._slices.popleft()
            self._session = self._session or self._begin()
            self._works = self._session.accept(samples_n, final=self._is_last)
            self._slice_s = len(samples_n) / self.rate_hz
        for work in self._works:
            if isinstance(work, ChunkWork):
                self.chunk = work
                return
            self.deliver(Heard(self.heard_s, work))
        self.heard_s, self._works = self.heard_s + self._slice_s, None
        if self._is_last:
            self._session = None
            self.deliver(Heard(self.heard_s))

    def take(self, recognition: Recognition) -> None:
        """Hand over what a step heard in the chunk."""
        work, self.chunk = self.chunk, None
        self.is_within = not work.chunk.is_last
        self.deliver(Heard(self.heard_s, work, recognition))
