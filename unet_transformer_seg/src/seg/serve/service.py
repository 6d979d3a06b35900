"""The parts of a service together: engine, workers, limits and counters."""

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seg import api
from seg.config.reader import load_config
from seg.data.dataset import count_labelled
from seg.data.fit import is_fitted
from seg.inference.predictor import Predictor
from seg.serve import stacks
from seg.serve.engine import Engine
from seg.serve.form import Order
from seg.serve.formats import MEDIA_TYPES, SUFFIXES, Drawing, formats_of
from seg.serve.metrics import Metrics
from seg.serve.rate_limit import RateLimit
from seg.serve.refusal import RefusedError, too_late
from seg.serve.settings import ServeSettings
from seg.serve.stacks import StackDrawing
from seg.serve.work import Answer
from seg.serve.worker import Decoded
from seg.serve.workers import WorkerPool

SEGMENTED_AT_ONCE = 4  # images of a stack that wait for the device together


class Reply(NamedTuple):
    """The answer to an order: its bytes, their type, and what else there is to say about them."""

    content: bytes
    media_type: str
    headers: Mapping[str, str]


class Service:
    """Segments what clients send.

    Attributes:
        settings: the limits.
        names: of the model; the first is its own, others are accepted, too.
        classes: names and colours.
        created: time of the start, in seconds since 1970.
        metrics: the counters.
        engine: owner of the device.
        workers: readers and writers.
    """

    def __init__(self, predictor: Predictor, settings: ServeSettings | None = None, names: tuple[str, ...] = ("seg",)):
        self.settings = settings or ServeSettings()
        self.names, self.classes, self.created = names, predictor.classes, int(time.time())
        self.metrics = Metrics()
        self._data = predictor.config.data
        self.engine = Engine(predictor, self.settings, self.metrics)
        self.workers = WorkerPool(self.settings, predictor.config.data, predictor.classes, self.metrics)
        self._rate = RateLimit(self.settings.max_megapixels_per_minute, "megapixels")
        self.metrics.compilations.set_function(lambda: self.engine.compilations_after_ready)

    def start(self) -> None:
        """Compile the programs and start the workers; returns when images are taken. A second call does nothing."""
        if not self.engine.ready:
            self.workers.start()
            self.engine.start()

    def drain(self) -> None:
        """Refuse new images; those that were taken are still answered."""
        self.engine.drain()

    def stop(self) -> None:
        """Give up what is still waiting, and end the thread and the workers."""
        self.engine.stop()
        self.workers.stop()

    def check_room(self) -> None:
        """Raise the refusal that a new image would get now, before its upload is read."""
        self.engine.check_room()
        self.workers.check_room()

    async def answer(self, order: Order, client: str) -> Reply:
        """Return the answer to an order.

        Args:
            order: the image and the options.
            client: whose allowance of megapixels it takes from.

        Raises:
            RefusedError: as `WorkerPool.decode`, `Engine.segment` and `WorkerPool.draw`; the allowance is used up; or
                too late.
        """
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                return await self._answer(order, client)
        except TimeoutError:
            raise too_late(self.settings.deadline_s) from None

    def _settle_format(self, order: Order) -> Order:
        """Return the order with a format that can hold the labels of this model."""
        possible = formats_of(self.classes)
        if order.format not in (None, *possible):
            kind = "overlap" if self.classes.overlapping else "exclude each other"
            text = f"format: the classes of this model {kind}; expected one of {', '.join(possible)}"
            raise RefusedError(400, text, "bad_value", param="format")
        return dataclasses.replace(order, format=order.format or possible[0])

    async def _answer(self, order: Order, client: str) -> Reply:
        order = self._settle_format(order)
        decoded = await self.workers.decode(order.content)
        if decoded.suffix and order.format not in stacks.FORMATS:
            text = f"format: the upload has {len(decoded.images)} images; expected one of {', '.join(stacks.FORMATS)}"
            raise RefusedError(400, text, "bad_value", param="format")
        if decoded.suffix.startswith(".nii") and order.format == "tiff":
            text = "format: a volume has one label for each voxel, but classes overlap; expected overlay or npz"
            raise RefusedError(400, text, "bad_value", param="format")
        self._rate.take(client, sum(image_hwc.shape[0] * image_hwc.shape[1] for image_hwc in decoded.images) / 1e6)
        answers: list[Answer] = []
        for start in range(0, len(decoded.images), SEGMENTED_AT_ONCE):
            images = decoded.images[start : start + SEGMENTED_AT_ONCE]
            segmented = (self.engine.segment(image_hwc, probabilities=order.probabilities) for image_hwc in images)
            answers += await asyncio.gather(*segmented)
        drawing = (
            self._draw_stack(order, decoded, answers) if decoded.suffix else self._draw(order, decoded, answers[0])
        )
        content = await self.workers.draw(drawing)
        self.metrics.answers.labels(order.format).inc()
        suffix = drawing.file_suffix if decoded.suffix else SUFFIXES[order.format]
        media_type = stacks.MEDIA_TYPES[suffix] if decoded.suffix else MEDIA_TYPES[order.format]
        headers = self._describe([answer.labels for answer in answers])
        headers |= {"content-disposition": f'inline; filename="mask{suffix}"'}
        if decoded.suffix:
            headers["x-images"] = str(len(answers))
        if decoded.remarks:
            headers["x-remarks"] = "; ".join(decoded.remarks).encode("ascii", "replace").decode()
        if order.ignored:
            headers["x-ignored"] = ", ".join(order.ignored)
        return Reply(content, media_type, headers)

    def _draw(self, order: Order, decoded: Decoded, answer: Answer) -> Drawing:
        image_hwc = decoded.images[0] if order.format == "overlay" else None
        return Drawing(
            order.format, answer.labels, image_hwc, answer.probabilities, order.opacity, self._data.shown_channels
        )

    def _draw_stack(self, order: Order, decoded: Decoded, answers: Sequence[Answer]) -> StackDrawing:
        return StackDrawing(
            order.format,
            decoded.suffix,
            [answer.labels for answer in answers],
            decoded.images if order.format == "overlay" else [],
            [answer.probabilities for answer in answers if answer.probabilities is not None],
            order.opacity,
            self._data.shown_channels,
            order.content if decoded.suffix.startswith(".nii") else b"",
            self._data.slice_axis,
        )

    def _describe(self, labels: Sequence[np.ndarray]) -> dict[str, str]:
        """Return the size of the first image, and the pixels of each class that occurs, by label."""
        height, width = labels[0].shape[:2]
        pixels_k = sum(count_labelled(one, len(self.classes))[0] for one in labels)
        pixels = {label: n for label, n in enumerate(pixels_k.tolist()) if n}
        return {"x-image-size": f"{width}x{height}", "x-class-pixels": json.dumps(pixels, separators=(",", ":"))}


def load_service(
    folder: Path, settings: ServeSettings, name: str = "", overrides: Sequence[str] = (), checkpoint: str = "best"
) -> Service:
    """Return the service of a run directory or a model folder.

    Args:
        folder: of the model.
        settings: the limits.
        name: of the model, for clients; empty: that of its folder.
        overrides: changes of its config as `key=value`.
        checkpoint: of a run, `best` or `last`.

    Raises:
        UserError: as `seg.load`.
    """
    config = load_config(folder / "config.yaml", overrides)
    if config.inference.whole_up_to and not is_fitted(config):
        print("inference.whole_up_to is set to 0: every size of an image would be compiled anew", file=sys.stderr)
        overrides = [*overrides, "inference.whole_up_to=0"]
    predictor = api.load(folder, checkpoint=checkpoint, overrides=overrides)
    return Service(predictor, settings, (name or folder.resolve().name,))
