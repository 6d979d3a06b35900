"""Segments the images of many clients on one device.

One thread owns the device. Images that fit into one window ride together in a batch, whoever sent them, in one of a few
compiled sizes. A larger image is computed by windows, a band of rows per turn, so that it delays small ones by one band
at most. Compilation ends before the first request.

Letters: b windows, h w rows and columns, k classes.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from seg.data.fit import is_fitted, window_for
from seg.inference.predictor import Predictor
from seg.inference.tiling import Band
from seg.serve.compilations import count_compilations
from seg.serve.metrics import Metrics
from seg.serve.refusal import RefusedError, draining, overloaded, starting, too_late
from seg.serve.settings import ServeSettings
from seg.serve.work import Answer, Work

log = logging.getLogger("seg.serve")

SMOOTHING = 0.2
"""Weight of the newest turn in the estimated seconds per megapixel."""

MAX_PADDING = 0.3
"""Largest share of a batch that holds no image."""

STOP_S = 10
"""Longest wait for the device when the engine is stopped, in seconds."""

FAILED = "the network failed on this image"


class Engine:
    """Owner of the device.

    Attributes:
        ready: whether all programs are compiled.
        draining: whether new images are refused.
        compilations_after_ready: programs that were compiled while clients waited; 0 if all is well.
    """

    def __init__(self, predictor: Predictor, settings: ServeSettings, metrics: Metrics):
        self.ready = self.draining = False
        self._predictor, self._settings, self._metrics = predictor, settings, metrics
        on_cpu = jax.default_backend() == "cpu"
        self._batch_sizes = settings.batch_sizes or ((1, 2, 4) if on_cpu else (1, 2, 4, 8, 16))
        self._small: deque[Work] = deque()
        self._large: deque[Work] = deque()
        self._turns: deque[tuple[Work, Iterator[Band]]] = deque()
        self._changed = threading.Condition()
        self._queued_megapixels, self._queued_small, self._seconds_per_megapixel = 0.0, 0.0, 0.0
        self._compiled_at_ready, self._stopping = 0, False
        self._thread = threading.Thread(target=self._own_device, name="seg-device", daemon=True)

    def start(self) -> None:
        """Compile every program, then take images."""
        count_compilations()
        self._warm_up()
        self._compiled_at_ready = count_compilations()
        self._thread.start()
        self.ready = True

    def drain(self) -> None:
        """Refuse new images; those that wait are still segmented."""
        self.draining = True

    def stop(self) -> None:
        """Give up the images that wait, and end the thread."""
        self.draining = True
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident:
            self._thread.join(STOP_S)

    @property
    def compilations_after_ready(self) -> int:  # noqa: D102 (see the class)
        return count_compilations() - self._compiled_at_ready if self.ready else 0

    def check_room(self, megapixels: float = 0.0, is_small: bool = True) -> None:
        """Raise the refusal that an image of this size would get now; `is_small` if it fits into one window."""
        if self.draining:
            raise draining()
        if not self.ready:
            raise starting()
        # A small image waits for those before it, and as long again for bands of large ones; a large one for all.
        ahead = 2 * self._queued_small if is_small else self._queued_megapixels
        wait_s = ahead * self._seconds_per_megapixel
        is_long = wait_s > (self._settings.max_queue_s if is_small else self._settings.deadline_s)
        is_full = self._queued_megapixels + megapixels > self._settings.max_queued_megapixels
        if self._queued_megapixels and (is_full or is_long):  # an empty queue takes an image of any size
            raise overloaded(wait_s)

    async def segment(self, image_hwc: np.ndarray, *, probabilities: bool = False) -> Answer:
        """Return the labels of an image, and its probabilities if they are asked for.

        A caller that is cancelled takes its image out of the queue.

        Args:
            image_hwc: [h, w, c] as `Sample.image`.
            probabilities: whether the answer needs them.

        Raises:
            RefusedError: overloaded, starting or draining; too late; or the network failed on this image.
        """
        brought_hwc = await asyncio.to_thread(self._predictor.bring, image_hwc)
        work = Work(image_hwc, brought_hwc, probabilities, self._cost(brought_hwc), self._predictor.labels)
        work.deadline = work.queued_at + self._settings.deadline_s
        self._put(work)
        try:
            answer = await asyncio.wrap_future(work.future)
        finally:
            work.is_dropped = True
            self._release(work)
        if isinstance(answer, Answer):
            return answer
        return await asyncio.to_thread(work.fitted, answer)

    def _cost(self, brought_hwc: np.ndarray) -> float:
        """Return the megapixels that an image costs, at least those of a window."""
        tile_h, tile_w = self._predictor.tile
        return max(brought_hwc.shape[0] * brought_hwc.shape[1], tile_h * tile_w) / 1e6

    def _put(self, work: Work) -> None:
        with self._changed:
            work.is_small = self._predictor.shares_window(work.brought_hwc)
            self.check_room(work.megapixels, work.is_small)
            self._count(work, 1)
            (self._small if work.is_small else self._large).append(work)
            self._changed.notify()

    def _release(self, work: Work) -> None:
        with self._changed:
            if work.is_queued:
                self._count(work, -1)

    def _count(self, work: Work, sign: int) -> None:
        work.is_queued = sign > 0
        self._queued_megapixels = max(self._queued_megapixels + sign * work.megapixels, 0.0)
        if work.is_small:
            self._queued_small = max(self._queued_small + sign * work.megapixels, 0.0)
        self._metrics.queued_megapixels.set(self._queued_megapixels)

    def _own_device(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._small or self._large or self._turns or self._stopping)
                if self._stopping:
                    break
                batch = list(self._take(self._small, self._batch_size(len(self._small))))
                missing = self._settings.large_at_once - len(self._turns)
                self._turns += [(work, None) for work in self._take(self._large, missing)]
            if batch:
                self._run_batch(batch)
            if self._turns:
                self._run_turn(*self._turns.popleft())
        for work in (*self._small, *self._large, *(work for work, _ in self._turns)):
            work.fail(draining())

    def _batch_size(self, num_waiting: int) -> int:
        """Return how many images to compute next: all, if a program for so many wastes little; else what fills one."""
        large_enough = [size for size in self._batch_sizes if size >= num_waiting >= (1 - MAX_PADDING) * size]
        return (
            large_enough[0] if large_enough else max(size for size in self._batch_sizes if size <= max(num_waiting, 1))
        )

    def _take(self, queue: deque[Work], number: int) -> Iterator[Work]:
        """Yield up to `number` images whose clients still wait."""
        while queue and number > 0:
            work = queue.popleft()
            if self._is_awaited(work):
                self._metrics.queue_s.observe(time.monotonic() - work.queued_at)
                number -= 1
                yield work

    def _is_awaited(self, work: Work) -> bool:
        if work.is_dropped:
            self._metrics.dropped.inc()
            return False
        if time.monotonic() > work.deadline:
            work.fail(too_late(self._settings.deadline_s))
            return False
        return True

    def _run_batch(self, batch: Sequence[Work]) -> None:
        """Answer images that fit into a window; where the batch fails, each is tried alone."""
        start = time.monotonic()
        for work, answer in zip(batch, self._try(batch), strict=True):
            if answer is None and len(batch) > 1:
                self._metrics.retried.inc()
                (answer,) = self._try([work])
            if answer is None:
                work.fail(RefusedError(500, FAILED, "segmentation_failed"))
            else:
                work.succeed(answer)
        self._note_speed(time.monotonic() - start, sum(work.megapixels for work in batch))
        self._metrics.megapixels.inc(sum(work.image_megapixels for work in batch))

    def _try(self, batch: Sequence[Work]) -> list[np.ndarray | None]:
        probabilities = any(work.needs_probabilities or work.is_resized for work in batch)
        try:
            return self._forward([work.brought_hwc for work in batch], probabilities)
        except Exception:
            log.exception("a batch of %d images failed", len(batch))
            return [None] * len(batch)

    def _forward(self, images: Sequence[np.ndarray], probabilities: bool) -> list[np.ndarray | None]:
        """Return labels uint8[h, w] or probabilities float32[h, w, k] of each image; None if they are not finite."""
        predictor = self._predictor
        size = next(size for size in self._batch_sizes if size >= len(images))
        windows = [predictor.fill(image_hwc, predictor.tile) for image_hwc in images]
        start = time.monotonic()
        probabilities_bhwk = predictor.windows_forward(np.stack(windows + windows[-1:] * (size - len(windows))))
        answers = probabilities_bhwk if probabilities else predictor.decide(probabilities_bhwk)
        finite_b, answers = np.asarray(_are_finite(probabilities_bhwk)), np.asarray(answers)
        self._metrics.device_s.observe(time.monotonic() - start)
        self._metrics.batch_images.observe(len(images))
        self._metrics.padding.observe(1 - len(images) / size)
        cut = [answer[: image.shape[0], : image.shape[1]] for image, answer in zip(images, answers, strict=False)]
        return [answer if is_finite else None for answer, is_finite in zip(cut, finite_b, strict=False)]

    def _run_turn(self, work: Work, bands: Iterator[Band] | None) -> None:
        """Compute the next band of a large image, and put the image at the end of the turns if there are more."""
        if not self._is_awaited(work):
            return
        start = time.monotonic()
        try:
            bands = bands or self._predictor.predict_bands(work.image_hwc)
            band = next(bands)
            if not np.isfinite(band.probabilities).all():
                raise ArithmeticError("a probability is not finite")
        except Exception:
            log.exception("an image of several windows failed")
            work.fail(RefusedError(500, FAILED, "segmentation_failed"))
            return
        work.add(band.probabilities)
        if work.num_rows < work.image_hwc.shape[0]:
            self._turns.append((work, bands))
        else:
            work.succeed(work.joined())
            self._metrics.megapixels.inc(work.image_megapixels)
        self._note_speed(time.monotonic() - start, work.megapixels * len(band.probabilities) / work.image_hwc.shape[0])

    def _note_speed(self, seconds: float, megapixels: float) -> None:
        newest = seconds / megapixels
        weight = SMOOTHING if self._seconds_per_megapixel else 1.0
        self._seconds_per_megapixel += weight * (newest - self._seconds_per_megapixel)

    def _warm_up(self) -> None:
        """Run every program once: each size of a batch, and the windows of a large image."""
        predictor, config = self._predictor, self._predictor.config
        tile_h, tile_w = predictor.tile
        for size in self._batch_sizes:
            black_hwc = np.zeros((tile_h, tile_w, config.data.channels), config.data.precision)
            for probabilities in (False, True):
                self._forward([black_hwc] * size, probabilities)
        size, window = config.inference.batch_size, predictor.tile
        if is_fitted(config):  # the images have one size, and go by windows only if that is larger than one
            window = window_for(config.data.size, config)
            size = 1 if window == config.data.size else size
        windows_bhwc = np.zeros((size, *window, config.data.channels), config.data.precision)
        weights = (np.zeros((size, side), np.float32) for side in window)
        jax.block_until_ready(predictor.weighted_forward(windows_bhwc, *weights))


@jax.jit
def _are_finite(probabilities_bhwk: jax.Array) -> jax.Array:
    """Return bool[b]."""
    return jnp.isfinite(probabilities_bhwk).all((1, 2, 3))
