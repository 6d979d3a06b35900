"""Live streams: one thread hears all of them, each in a slot of one compiled step.

    sound of each stream → its rules (detector, segments, chunks) → a step for all that wait → tokens → each client
                                                                  → a segment that ended → the engine's batches

A step begins when a chunk of some stream is complete; streams that are ready within a few milliseconds share it. The
second pass, and the text of what is heard, are made on the clients' side (`asr.serve.live_session`), so that no step
waits for them.
"""

import functools
import logging
import threading
import time
from collections.abc import Sequence

import numpy as np

from asr.errors import UserError
from asr.inference.hotwords import Hotword
from asr.inference.recognition import Recognition
from asr.inference.sound_chunks import Chunk, chunk_shape
from asr.inference.stream import StreamSession, check_parts, stream_programs, stream_settings
from asr.inference.transcriber import Transcriber
from asr.serve.engine import Engine
from asr.serve.engine_errors import Draining, Overloaded, RecognitionFailed, UnknownModeError
from asr.serve.live_session import LiveSession
from asr.serve.live_stream import LiveStream
from asr.serve.metrics import Metrics
from asr.serve.settings import ServeSettings

RETRY_AFTER_S = 5.0
"""When a client that found no slot may try again."""

log = logging.getLogger("asr")


class LiveEngine:
    """Hears the streams of many clients.

    Attributes:
        transcriber: the streaming model, with the detector.
        engine: recognises segments again, in the second pass.
    """

    def __init__(self, transcriber: Transcriber, engine: Engine, settings: ServeSettings, metrics: Metrics):
        """Raise a UserError unless the models work together."""
        self.transcriber, self.engine, self.settings, self.metrics = transcriber, engine, settings, metrics
        self._chunks = stream_settings(transcriber)
        look_backs = self._chunks.encoder_look_back, self._chunks.decoder_look_back
        if min(look_backs) < 0:
            raise UserError(
                "--streaming: a look-back of -1 (all chunks) needs new programs while a stream grows: set "
                "streaming.encoder_look_back and streaming.decoder_look_back to a number, such as 4"
            )
        rate_hz = transcriber.config.features.sample_rate_hz
        check_parts(transcriber, engine.transcriber if self.has_second_pass else None, rate_hz)
        self._streams: dict[int, LiveStream] = {}
        self._free = list(range(settings.max_streams))
        self._changed, self._is_stopped = threading.Condition(), False
        self._programs = None
        self._thread = threading.Thread(target=self._run, name="live streams", daemon=True)

    @property
    def has_second_pass(self) -> bool:
        """Whether segments can be recognised again: only a detector knows where they end."""
        return self.transcriber.vad is not None

    @property
    def num_streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    def start(self) -> None:
        """Compile, and start the thread."""
        self._programs = self._empty_programs()
        self._programs.warm_up()
        step_s, hop_s = self._try_out(), self._hop_s
        if step_s > hop_s:
            number = len(self._free)
            log.warning(
                "a step of %d live streams takes %.2f s, their chunks last %.2f s: lower max_streams",
                number,
                step_s,
                hop_s,
            )
        self.metrics.live_streams.set_function(lambda: self.num_streams)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the step; streams that are open get `Draining`."""
        self._end_all()
        if self._thread.is_alive():
            self._thread.join()

    def open(self, rate_hz: int = 16_000, second_pass: bool = False, hotwords: tuple[Hotword, ...] = ()) -> LiveSession:
        """Return a new stream, which belongs to the running event loop.

        Args:
            rate_hz: of its samples.
            second_pass: recognise each segment again when it has ended, with the engine's model.
            hotwords: to prefer in the second pass.

        Raises:
            Draining: the service is about to stop.
            Overloaded: every slot is taken.
            UnknownModeError: a second pass without a detector.
        """
        if second_pass and not self.has_second_pass:
            raise UnknownModeError("a second pass needs a detector that knows where a segment ends: start with --vad")
        second = self.engine.transcriber if second_pass else None
        session = LiveSession(self, rate_hz, hotwords)
        begin = functools.partial(StreamSession, self.transcriber, self._chunks.layout, second, rate_hz)
        with self._changed:
            if self._is_stopped or self.engine.draining:
                raise Draining("the server is about to stop")
            if not self._free:
                raise Overloaded(RETRY_AFTER_S)
            session.stream = stream = LiveStream(self._free.pop(), rate_hz, begin, session.deliver)
            self._streams[stream.slot] = stream
        return session

    def hear(self, stream: LiveStream, samples_n: np.ndarray, is_last: bool = False) -> None:
        """Add int16[n] samples to a stream."""
        with self._changed:
            if stream.is_open:
                stream.push(samples_n, is_last)
                self._changed.notify()
        self.metrics.sound_s.inc(len(samples_n) / stream.rate_hz)

    def release(self, stream: LiveStream) -> None:
        """End a stream and free its slot; nothing happens the second time."""
        with self._changed:
            if stream.is_open:
                stream.is_open = False
                del self._streams[stream.slot]
                self._free.append(stream.slot)
                self._changed.notify()

    def fail(self, stream: LiveStream, error: Exception) -> None:
        """End a stream, whose client gets the error."""
        self.release(stream)
        stream.deliver(error)

    def _empty_programs(self):
        return stream_programs(self.transcriber, self._chunks, self.settings.max_streams)

    @property
    def _hop_s(self) -> float:
        shape = chunk_shape(self.transcriber.config.features, self._chunks.layout.size)
        return shape.hop / self.transcriber.config.features.sample_rate_hz

    def _try_out(self) -> float:
        """Run all that a stream runs, once; return the seconds of a step."""
        shape = chunk_shape(self.transcriber.config.features, self._chunks.layout.size)
        wave_n = 0.1 * np.random.default_rng(0).standard_normal(shape.num_samples).astype(np.float32)
        chunk = Chunk(wave_n, shape.before, shape.num_mel_frames - 1, shape.size, True, True, True)
        seconds = []
        for _ in range(2):  # the first one allocates memory
            start = time.perf_counter()
            self._programs.run({0: chunk})
            seconds.append(time.perf_counter() - start)
        if self.transcriber.vad is not None:
            self.transcriber.vad.stream().accept(wave_n, final=True)
        return seconds[-1]

    def _run(self) -> None:
        """Step after step, until the engine is stopped. If this ends otherwise, nothing is accepted."""
        try:
            while not self._is_stopped:
                if streams := self._gather():
                    self._step(streams)
        finally:
            self._end_all()

    def _gather(self) -> list[LiveStream]:
        """Wait for chunks; then a little longer for those of further streams."""
        end = None
        while not self._is_stopped:
            with self._changed:
                streams = list(self._streams.values())
            for stream in streams:
                self._advance(stream)
            ready = [stream for stream in streams if stream.chunk is not None]
            rest_s = None
            if ready:
                end = end or time.monotonic() + self.settings.stream_wait_s
                rest_s = end - time.monotonic()
                if rest_s <= 0 or len(ready) == len(streams):
                    return ready
            with self._changed:
                if not self._is_stopped and not any(stream.can_advance for stream in self._streams.values()):
                    self._changed.wait(rest_s)
        return []

    def _advance(self, stream: LiveStream) -> None:
        try:
            stream.advance()
        except Exception as error:  # whatever became of one stream, the others must not suffer
            self._lose(stream, error)

    def _step(self, streams: Sequence[LiveStream]) -> None:
        """Take a step of these streams."""
        start = time.perf_counter()
        results = self._recognise({stream.slot: stream.chunk.chunk for stream in streams})
        self.metrics.live_step_s.observe(time.perf_counter() - start)
        self.metrics.live_step_streams.observe(len(results))
        for stream in streams:
            result = results[stream.slot]
            if isinstance(result, Exception):
                self._lose(stream, result)
            elif not result.finite:
                self._lose(stream, FloatingPointError("the model's output is not finite"))
            elif stream.is_open:
                stream.take(result)

    def _recognise(self, chunks: dict[int, Chunk]) -> dict[int, Recognition | Exception]:
        """Return the tokens of each chunk, or why there are none; after a failure each is tried once more, alone."""
        try:
            return self._programs.run(chunks)
        except Exception as error:
            log.warning("a step of %d live streams failed (%s); each is tried alone", len(chunks), type(error).__name__)
            self.metrics.batch_failures.inc()
        results = {slot: self._recognise_alone(slot, chunk) for slot, chunk in chunks.items()}
        if isinstance(self._recognise_alone(), Exception):  # a step of nobody fails, too: the states are lost
            self._begin_anew()
        return results

    def _recognise_alone(self, slot: int | None = None, chunk: Chunk | None = None) -> Recognition | None | Exception:
        """Return the tokens of one chunk, or of none, or why there are none."""
        try:
            return self._programs.run({} if chunk is None else {slot: chunk}).get(slot)
        except Exception as error:
            return error

    def _begin_anew(self) -> None:
        """Give all slots an empty state, and end the streams that had one."""
        self._programs = self._empty_programs()
        with self._changed:
            streams = list(self._streams.values())
        for stream in streams:
            if stream.is_within:
                self._lose(stream, RuntimeError("the state of all streams was lost"))

    def _lose(self, stream: LiveStream, error: Exception) -> None:
        """End a stream on which something failed; the text of an exception may quote a user."""
        if stream.is_open:
            log.error("a live stream failed (%s)", type(error).__name__)
            self.fail(stream, RecognitionFailed("the model failed on this stream"))

    def _end_all(self) -> None:
        with self._changed:
            self._is_stopped = True
            streams = list(self._streams.values())
            self._changed.notify_all()
        for stream in streams:
            self.fail(stream, Draining("the server stops"))
