"""The engine: one thread owns the device and recognises the segments of all requests in batches.

    request → segments → queue, by turns → batches of compiled shapes → recognitions → each request, in order

Every shape is compiled before `ready`. What nobody waits for any more leaves the queue before it costs anything.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

import jax
import numpy as np

from asr.data.frontend import num_feature_frames
from asr.inference.hotwords import Hotword
from asr.inference.recognition import NOTHING, Recognition
from asr.inference.segmentation import Segment, longest_segment
from asr.inference.shapes import make_ladder
from asr.inference.transcriber import Transcriber
from asr.inference.transcription import GrowingTranscript, Outcome, Source
from asr.serve.background import in_background
from asr.serve.decoding import Decoded
from asr.serve.engine_errors import DeadlinePassed, Draining, Overloaded, RecognitionFailed
from asr.serve.hotwords import example_hotwords
from asr.serve.metrics import Metrics
from asr.serve.queue import Item, Request, SegmentQueue, batch_sizes
from asr.serve.settings import ServeSettings

log = logging.getLogger("asr")

DECODED_SHARE = 2
"""Share of `queue_sound_s` that sound may fill once it is decoded. It was admitted by an estimate of its length; a
refusal now would be late, and waste the work of decoding."""
RETRY_AFTER_S = (1.0, 30.0)
"""Shortest and longest time that a refused client is asked to wait."""
MEMORY = 0.9
"""Weight of the past in running means."""
CPU_ROWS, ROWS = 4, 16
"""Most rows of a batch by default."""


class Engine:
    """Recognises the segments of many requests.

    Attributes:
        transcriber: the model.
        ready: every shape is compiled, and requests are accepted.
        draining: requests that have begun are finished, new ones are refused.
        speed: seconds of sound per second of device time, of late.
        batch_sizes: rows of a batch.
        uploads: returns the number of those that are not decoded yet, and the seconds that this will take.
    """

    def __init__(self, transcriber: Transcriber, settings: ServeSettings, metrics: Metrics):
        self.transcriber, self.settings, self.metrics = transcriber, settings, metrics
        self.ready = self.draining = False
        self.speed, self._usual_s = 1.0, 0.0
        self.uploads: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        self.batch_sizes = batch_sizes(settings.batch_rows or (CPU_ROWS if jax.default_backend() == "cpu" else ROWS))
        self._rate_hz = transcriber.config.features.sample_rate_hz
        self._queue = SegmentQueue()
        self._open: set[Request] = set()
        self._held_s, self._last_batch_end = 0.0, -math.inf
        self._compiled_at_ready = 0
        self._owner = threading.Thread(target=self._run, name="device owner", daemon=True)

    @property
    def compilations_after_ready(self) -> int:
        """Programs that were compiled since `ready`; 0 unless something is wrong."""
        return self.transcriber.compilations - self._compiled_at_ready if self.ready else 0

    @property
    def num_requests(self) -> int:
        """Requests that are not finished."""
        return len(self._open)

    def start(self) -> None:
        """Compile every shape, measure the speed, and start the owner of the device."""
        longest = longest_segment(self._rate_hz, self.transcriber.config.inference)
        shapes = make_ladder(longest, self.batch_sizes, self.settings.batch_lengths)
        before = self.transcriber.compilations
        self.transcriber.warm_up(shapes)
        if self.settings.max_hotwords:
            self.transcriber.warm_up(shapes, example_hotwords(self.transcriber.tokenizer))
        noise_n = 0.1 * np.random.default_rng(0).standard_normal(longest).astype(np.float32)
        for _ in range(2):  # the first one allocates memory
            self._recognise([noise_n])
        self._compiled_at_ready = self.transcriber.compilations
        self.metrics.compilations.set(self._compiled_at_ready - before)
        self.metrics.watch(self, self._queue)
        self._owner.start()
        self.ready = True

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self.draining = True

    def stop(self) -> None:
        """Stop the owner after its batch; requests that are not finished get `Draining`."""
        self._refuse_all()
        if self._owner.is_alive():
            self._owner.join()

    def _refuse_all(self) -> None:
        self.draining, self.ready = True, False
        for request in self._queue.close():
            request.deliver(-1, Draining("the server stops"))

    def check_room(self, sound_s: float) -> None:
        """Refuse a request at once, before its sound is decoded.

        Args:
            sound_s: its length in seconds; 0: unknown, as before it is decoded. It is then taken to be what is usual,
                and the time that it would wait counts, too: what was decoded is no longer refused for that.

        Raises:
            Draining: the service is about to stop.
            Overloaded: too much sound waits.
        """
        if self.draining:
            raise Draining("the server is about to stop")
        settings, share_s = self.settings, self.settings.request_share_s
        waiting_s, wait_s, most_s = self._queue.seconds(share_s), 0.0, DECODED_SHARE * settings.queue_sound_s
        if not sound_s:
            most_s = settings.queue_sound_s
            number, decoding_s = self.uploads()
            sound_s = self._usual_s
            waiting_s += number * min(sound_s, share_s)
            wait_s = decoding_s + waiting_s / self.speed
        is_full = waiting_s > 0 and waiting_s + min(sound_s, share_s) > most_s
        is_held = self._held_s > 0 and self._held_s + sound_s > settings.held_sound_s
        if is_full or is_held or wait_s > settings.max_wait_s:
            low_s, high_s = RETRY_AFTER_S
            raise Overloaded(min(max(wait_s, waiting_s / self.speed, low_s), high_s))

    async def recognise(
        self,
        decoded: Decoded,
        deadline_s: float | None = None,
        hotwords: tuple[Hotword, ...] = (),
        language: str = "",
        *,
        is_admitted: bool = False,
    ) -> AsyncIterator[tuple[Segment, Recognition]]:
        """Yield (segment, tokens) in order, each as soon as it is ready; closing the generator drops the rest.

        Args:
            decoded: the sound.
            deadline_s: seconds from now; at most and by default that of the settings.
            hotwords: to prefer.
            language: of the sound, one of the transcriber's `languages`; "": the model's setting.
            is_admitted: it is part of a live stream, which only an engine that has stopped refuses.

        Raises:
            Overloaded, Draining: as `check_room`.
            DeadlinePassed: it took too long.
            RecognitionFailed: a segment failed twice.
        """
        sound_s = sum(len(segment.wave) for segment in decoded.segments) / self._rate_hz
        if not is_admitted:
            self.check_room(sound_s)
        elif self._queue.closed:
            raise Draining("the server stops")
        limit_s = min(deadline_s or math.inf, self.settings.deadline_s)
        loop, results = asyncio.get_running_loop(), asyncio.Queue()

        def deliver(place: int, result: Recognition | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(results.put_nowait, (place, result))

        request = Request(decoded.segments, self._rate_hz, deliver, hotwords, language)
        deadline = time.monotonic() + limit_s
        self._open.add(request)
        reason = "cancelled"
        self._held_s += sound_s
        self._usual_s = MEMORY * self._usual_s + (1 - MEMORY) * sound_s
        try:
            if request.waiting:
                self._queue.add(request)
            done: dict[int, Recognition] = {}
            for place, segment in enumerate(decoded.segments):
                while place not in done:
                    key, result = await asyncio.wait_for(results.get(), deadline - time.monotonic())
                    if isinstance(result, Exception):
                        raise result
                    done[key] = result
                yield segment, done.pop(place)
        except TimeoutError:
            reason = "deadline"
            raise DeadlinePassed(f"not finished within {limit_s:.0f} s") from None
        finally:
            if dropped := self._queue.drop(request):
                self.metrics.dropped.labels(reason).inc(dropped)
            self._held_s -= sound_s
            self._open.discard(request)

    async def transcribe(
        self,
        decoded: Decoded,
        *,
        file: str = "",
        deadline_s: float | None = None,
        hotwords: tuple[Hotword, ...] = (),
        language: str = "",
    ) -> Outcome:
        """Return what is said in a sound; arguments and exceptions as `recognise`."""
        growing = GrowingTranscript(self.transcriber)
        async with contextlib.aclosing(self.recognise(decoded, deadline_s, hotwords, language)) as recognitions:
            async for segment, recognition in recognitions:
                growing.add(segment.start, segment.start + len(segment.wave), recognition)
        transcript = await in_background(growing, growing.finish, decoded.num_samples, file)
        why_empty = "" if transcript.text else decoded.why_empty
        return Outcome(Source(lambda: iter(()), file), transcript, "", why_empty)

    def _run(self) -> None:
        """Own the device: batch after batch, until the queue is closed. If this ends otherwise, nothing is accepted."""
        try:
            while not self._queue.closed:
                if items := self._next_batch():
                    self._process(items)
        finally:
            self._refuse_all()

    def _next_batch(self) -> list[Item]:
        """Wait for work; if the device was busy just before, a little longer for a full batch."""
        settings, queue = self.settings, self._queue
        most = self.batch_sizes[-1]
        with queue.changed:
            if not len(queue) and not queue.closed:
                queue.changed.wait()
            end = self._last_batch_end + settings.batch_wait_s
            while 0 < queue.num_waiting() < most and (rest_s := end - time.monotonic()) > 0 and not queue.closed:
                queue.changed.wait(rest_s)
            return queue.take(self.batch_sizes, self._batch_length)

    def _batch_length(self, num_samples: int) -> int:
        return self.transcriber.choose_shape(1, num_samples).num_samples

    def _process(self, items: list[Item]) -> None:
        now = time.monotonic()
        for item in items:
            self.metrics.wait_s.observe(now - item.request.since)
        try:
            results = self._recognise_items(items)
        except Exception as error:  # whatever the device did, the other requests must not suffer
            log.warning("a batch of %d segments failed (%s); each is tried alone", len(items), type(error).__name__)
            self.metrics.batch_failures.inc()
            results = [self._retry(item) for item in items]
        self._last_batch_end = time.monotonic()
        for item, result in zip(items, results, strict=True):
            item.request.deliver(item.place, result)

    def _retry(self, item: Item) -> Recognition | RecognitionFailed:
        try:
            return self._recognise_items([item])[0]
        except Exception as error:
            log.error("a segment failed again alone (%s)", type(error).__name__)
            self._queue.drop(item.request)
            return RecognitionFailed("the model failed on this sound")

    def _recognise_items(self, items: Sequence[Item]) -> list[Recognition]:
        languages = [item.request.language for item in items]
        return self._recognise([item.segment.wave for item in items], items[0].request.hotwords, languages)

    def _recognise(
        self, waves: Sequence[np.ndarray], hotwords: tuple[Hotword, ...] = (), languages: Sequence[str] = ()
    ) -> list[Recognition]:
        """Return the tokens of each segment of one batch.

        Raises:
            FloatingPointError: the model's output is not finite.
        """
        start = time.perf_counter()
        results = [NOTHING] * len(waves)
        sounding = [
            i for i, wave in enumerate(waves) if num_feature_frames(len(wave), self.transcriber.config.features)
        ]
        if not sounding:
            return results
        languages = [languages[i] for i in sounding] if languages else ()
        finish = self.transcriber.start([waves[i] for i in sounding], hotwords, languages)
        for i, recognition in zip(sounding, finish(), strict=True):
            if not recognition.finite:
                raise FloatingPointError("the model's output is not finite")
            results[i] = recognition
        self._measure([len(waves[i]) for i in sounding], time.perf_counter() - start)
        return results

    def _measure(self, lengths: Sequence[int], seconds: float) -> None:
        shape = self.transcriber.choose_shape(len(lengths), max(lengths))
        self.metrics.batch_rows.observe(len(lengths))
        self.metrics.padding.observe(1 - sum(lengths) / (shape.batch_size * shape.num_samples))
        self.metrics.device_s.observe(seconds)
        speed = sum(lengths) / self._rate_hz / max(seconds, 1e-9)
        self.speed = MEMORY * self.speed + (1 - MEMORY) * speed if self.ready else speed
