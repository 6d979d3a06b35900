"""A live stream on the side of its client: push sound, and read events while they come.

    session = service.live.open(16_000, second_pass=True)
    await session.push(content)               # int16 samples, as they arrive
    await session.flush()                     # the sound ends
    async for event in session.events():      # in another task, from the start: each as soon as it is known
        …
    session.close()

Protocols are adapters: they translate between a client's frames and these calls.
"""

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import numpy as np

from asr.inference.hotwords import Hotword
from asr.inference.stream_segment import SegmentWork, StreamEvent
from asr.serve.decoding import Decoded
from asr.serve.engine_errors import TooFarBehind
from asr.serve.live_stream import Heard, LiveStream

if TYPE_CHECKING:
    from asr.serve.live import LiveEngine

SAMPLE = np.dtype("<i2")


class LiveSession:
    """One client's stream of sounds, one after the other. `LiveEngine.open` makes it; it holds a slot until `close`.

    Attributes:
        has_sound: sound was pushed that is not flushed.
        stream: its other side.
    """

    def __init__(self, engine: "LiveEngine", rate_hz: int, hotwords: tuple[Hotword, ...]):
        """Belong to the running event loop; `hotwords` are for the second pass."""
        self._engine, self._rate_hz, self._hotwords = engine, rate_hz, hotwords
        self._loop = asyncio.get_running_loop()
        self._half = b""  # of a sample that was cut
        self._heard: collections.deque[Heard] = collections.deque()  # not read yet; the first may be in work
        self._changed, self._error = asyncio.Event(), None
        self._begun_at = self._ended_at = 0.0  # when the sound began and ended, by the clock
        self.has_sound = self._has_text = self._is_closed = False
        self.stream: LiveStream | None = None

    async def push(self, content: bytes) -> None:
        """Add samples, int16 little-endian of one channel; the cut between two pieces may be within one.

        Raises:
            TooFarBehind: more sound waits than `websocket_buffer_s`; the stream has ended.
            Exception: what ended the stream, as `events` raises it.
        """
        self._check()
        content = self._half + content
        count = len(content) // SAMPLE.itemsize
        self._half = content[count * SAMPLE.itemsize :]
        if count:
            self._begun_at = self._begun_at if self.has_sound else time.monotonic()
            self.has_sound = True
            self._engine.hear(self.stream, np.frombuffer(content, SAMPLE, count))
            self._check_room()

    async def flush(self) -> None:
        """End the sound, whose last event then ends `events`; the next push begins another. Half a sample is dropped.

        Raises:
            Exception: what ended the stream.
        """
        self._check()
        self._half, self.has_sound = b"", False
        self._ended_at = time.monotonic()
        self._engine.hear(self.stream, np.zeros(0, np.int16), is_last=True)

    async def events(self) -> AsyncIterator[StreamEvent]:
        """Yield the events of a sound, each as soon as it is known; this ends behind the last one after `flush`.

        Only one reader at a time. The second pass runs in here: what follows it waits.

        Raises:
            DeadlinePassed: the second pass took too long.
            RecognitionFailed: the model failed on this stream.
            TooFarBehind: as `push`.
            Draining: the service has stopped.
        """
        self._has_text = False
        while (heard := await self._next()).work is not None:
            events = await self._take(heard)
            if self._is_closed:
                return
            self._heard.popleft()
            for event in events:
                self._measure(event)
                yield event
        self._heard.popleft()
        self._engine.metrics.live_final_s.observe(time.monotonic() - self._ended_at)

    def close(self) -> None:
        """Give the slot back, and forget what was not read. Any number of times."""
        self._is_closed = True
        self._heard.clear()
        self._changed.set()
        self._engine.release(self.stream)

    def deliver(self, heard: Heard | Exception) -> None:
        """Take what is heard, or why the stream has ended; called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._receive, heard)

    def _receive(self, heard: Heard | Exception) -> None:
        if isinstance(heard, Exception):
            self._error = self._error or heard
        elif not self._is_closed:
            self._heard.append(heard)
        self._changed.set()

    async def _next(self) -> Heard:
        """Wait for what is heard next; what came before an error is still read."""
        while not self._heard:
            self._check()
            self._changed.clear()
            await self._changed.wait()
        return self._heard[0]

    async def _take(self, heard: Heard) -> list[StreamEvent]:
        """Return the events of a work."""
        work, result = heard.work, heard.recognition
        is_last = isinstance(work, SegmentWork) or work.chunk.is_last
        if isinstance(work, SegmentWork):
            result = await self._recognise(work)
        # A segment's transcript may run a punctuation network.
        in_thread = is_last and self._engine.transcriber.punctuator is not None
        return await asyncio.to_thread(work.take, result) if in_thread else work.take(result)

    async def _recognise(self, work: SegmentWork) -> list:
        """Return the tokens of a segment's pieces, recognised in the batches of all requests."""
        pieces = Decoded(tuple(work.pieces), sum(len(piece.wave) for piece in work.pieces))
        results = self._engine.engine.recognise(pieces, hotwords=self._hotwords, is_admitted=True)
        async with contextlib.aclosing(results):
            return [recognition async for _, recognition in results]

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_closed:
            raise RuntimeError("the session was closed")

    def _check_room(self) -> None:
        """End the stream if too much of its sound waits, for a step or for the second pass."""
        heard_s = self._heard[0].heard_s if self._heard else self.stream.heard_s
        limit_s = self._engine.settings.websocket_buffer_s
        if self.stream.pushed_s - heard_s > limit_s:
            error = TooFarBehind(f"more than {limit_s:g} s of sound wait: send it as fast as it is spoken")
            self._engine.fail(self.stream, error)
            self._error = error
            raise error

    def _measure(self, event: StreamEvent) -> None:
        if event.text and not self._has_text:
            self._engine.metrics.live_first_text_s.observe(time.monotonic() - self._begun_at)
        self._has_text |= bool(event.text)
