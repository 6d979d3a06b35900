"""Segments images of any size with one compiled program.

Letters: b windows, h w rows and columns of a window or an image, k classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import chex
import flax.linen as nn
import jax
import numpy as np

from seg.checkpoints.store import restore_for_inference
from seg.classes import ClassTable, MaskValues
from seg.compiler import compiler_options
from seg.config import Config
from seg.data.fit import fill_up, labels_at, predicted_shape, resize_bands, resize_image, window_for, window_shape
from seg.data.image_input import ImageInput, read_input
from seg.data.images.remarks import Remarks
from seg.data.masks.class_settings import values_of_classes
from seg.errors import UserError
from seg.inference import tiling
from seg.inference.forward import make_forward, weigh
from seg.inference.model_folder import check_variables, load_weights
from seg.inference.model_settings import read_settings, with_thresholds
from seg.inference.segmentation import Segmentation
from seg.inference.tiling import Band, blend_windows, one_behind
from seg.labels import Labels, build_labels
from seg.models import CustomModel, build_model, count_parameters
from seg.ops.cpu_conv import for_many_calls
from seg.pictures import as_picture

Tag = TypeVar("Tag")

Images = list[ImageInput] | tuple[ImageInput, ...]  # images to segment together

Windows = Callable[[np.ndarray], jax.Array | np.ndarray]
"""windows [b, h, w, c] of `data.precision` → probabilities float32[b, h, w, k]."""


class Predictor:
    """A trained model, ready to segment. Images are resized as in training; labels have the size of their image.

    Every call of the network takes `inference.batch_size` windows of the shape `tile`, or one, so it is compiled at
    most twice, whatever the sizes of the images. Images computed whole (`inference.whole_up_to`) compile once per size.

    Attributes:
        config: settings of the run. Prediction depends on `model`, `inference`, and `channels`, `precision`, `mean`,
            `std`, `fit`, `size`, `value_range` and `max_pixels` of `data`.
        classes: names and colours.
        tile: rows and columns of the window.
        fill: pads an image to at least the size of a window, at the bottom and right.
        variables: the weights, on the device.
        custom_model: the network, if it comes from outside the package.
        labels: of which kind the labels are.
        decide: `labels.decide` on the device: probabilities[b, h, w, k] → labels.
    """

    def __init__(
        self,
        config: Config,
        classes: ClassTable,
        variables: Any,
        windows_forward: Windows | None = None,
        model: CustomModel | None = None,
        labels: Labels | None = None,
    ):
        """Wrap a model.

        Args:
            config: its settings.
            classes: names and colours.
            variables: the weights.
            windows_forward: predicts windows instead of a program compiled here; then `variables` may be None.
            model: the network, where it comes from outside the package.
            labels: of which kind the labels are, and their thresholds; by default as the config states.
        """
        self.labels = labels or build_labels(config, len(classes))
        self.decide = jax.jit(self.labels.decide)
        self.config, self.classes, self.custom_model = config, classes, model
        self._remark = Remarks()
        self.tile = window_shape(config)
        self.variables = jax.device_put(variables)
        self.fill = fill_up if config.inference.scale == "trained" else tiling.fill_up  # training fills with black
        self.windows_forward = windows_forward or self._compiled_forward()

    def __repr__(self) -> str:
        number = count_parameters((self.variables or {}).get("params", {}))
        return f"Predictor({self.config.model.name}, {len(self.classes)} classes, {number:,} parameters)"

    def _compiled_forward(self) -> Windows:
        forward = make_forward(self.model, self.config)
        if self.config.inference.winograd:
            forward = for_many_calls(forward)
        compiled = jax.jit(forward, compiler_options=compiler_options())
        return lambda windows_bhwc: compiled(self.variables, windows_bhwc)

    @property
    def model(self) -> nn.Module:
        """The network, without its weights."""
        return build_model(self.config.model, self.custom_model)

    def bring(self, image_hwc: np.ndarray) -> np.ndarray:
        """Return the image, [h, w, c], at the size at which it is segmented (`inference.scale`)."""
        chex.assert_shape(image_hwc, (None, None, self.config.data.channels))
        chex.assert_type(image_hwc, self.config.data.precision)
        return resize_image(image_hwc, predicted_shape(image_hwc.shape[:2], self.config))

    def picture(self, image_hwc: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
        """Return the image as it is shown, uint8[h, w, 3] (`data.shown_channels`); `limits` as of `as_picture`."""
        return as_picture(image_hwc, self.config.data.shown_channels, limits)

    @property
    def mask_values(self) -> MaskValues:
        """Value or colour of each class in the masks of the training data; empty if these hold class numbers."""
        return values_of_classes(self.classes, self.config.data)

    @overload
    def predict(self, image: ImageInput, *, probabilities: bool = False) -> Segmentation: ...

    @overload
    def predict(self, image: Images, *, probabilities: bool = False) -> list[Segmentation]: ...

    def predict(self, image, *, probabilities=False):
        """Return the class of each pixel.

        Args:
            image: a path, the bytes of an image file, a binary file, a Pillow image, an array [h, w] or [h, w, c] of
                any dtype, or a list of them. Files and Pillow images are turned upright, and more than 8
                bits are read as `data.value_range` says.
            probabilities: also return those of all classes.

        Returns:
            the segmentation, of the image's own size; for a list, a list in its order.

        Raises:
            UserError: naming the image: unreadable, or values whose black and white are unknown.
        """
        if not isinstance(image, list | tuple):
            return next(self._segment([("image", image)], probabilities))
        return list(self._segment([(f"image {number}", one) for number, one in enumerate(image)], probabilities))

    def _segment(self, named: Sequence[tuple[str, ImageInput]], probabilities: bool) -> Iterator[Segmentation]:
        images = ((name, read_input(image, self.config.data, name, self._remark)) for name, image in named)
        if not probabilities:
            for _, image_hwc, labels_hw in self.predict_many(images):
                yield Segmentation(labels_hw, self.classes, self.picture(image_hwc), counting=self.config.instances)
            return
        for _, image_hwc in images:
            probabilities_hwk = np.concatenate([band.probabilities for band in self.predict_bands(image_hwc)])
            labels, picture_hwc = self.labels.decide(probabilities_hwk), self.picture(image_hwc)
            answer = labels, self.classes, picture_hwc, probabilities_hwk
            yield Segmentation(*answer, self.config.instances)

    def predict_many(self, items: Iterable[tuple[Tag, np.ndarray]]) -> Iterator[tuple[Tag, np.ndarray, np.ndarray]]:
        """Yield (tag, image, mask) for each (tag, image), in order.

        Consecutive images that fit into one window are computed in one batch. The next batch is read and started while
        the caller uses the last one.
        """
        brought = (_Item(tag, image_hwc, self.bring(image_hwc)) for tag, image_hwc in items)
        groups = ((group, self._start(group)) for group in self._groups(brought))
        for group, answers in one_behind(groups):
            if answers is None:
                ((tag, image_hwc, _),) = group
                yield tag, image_hwc, np.concatenate(list(self.predict_rows(image_hwc)))
                continue
            for (tag, image_hwc, brought_hwc), answer in zip(group, np.asarray(answers), strict=False):
                answer = answer[: brought_hwc.shape[0], : brought_hwc.shape[1]]
                is_decided = answer.dtype == np.uint8
                labels = answer.copy() if is_decided else self.labels_at(answer, image_hwc.shape[:2])
                yield tag, image_hwc, labels

    def predict_bands(self, image_hwc: np.ndarray) -> Iterator[Band]:
        """Yield the class probabilities of an image from top to bottom, a band of rows at a time.

        Args:
            image_hwc: [h, w, c] as `Sample.image`, any size.

        Yields:
            bands of finished rows of the image, see `seg.inference.tiling.Band`.
        """
        brought_hwc = self.bring(image_hwc)
        if brought_hwc is image_hwc:
            yield from self._blend(image_hwc)
            return
        start = 0
        for band_khw in self._resized_bands(brought_hwc, image_hwc.shape[:2]):
            yield Band(start, np.ascontiguousarray(np.moveaxis(band_khw, 0, -1)))
            start += band_khw.shape[1]

    def predict_rows(self, image_hwc: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the labels of an image from top to bottom, uint8[rows, w] at a time; overlapping ones [rows, w, k]."""
        brought_hwc = self.bring(image_hwc)
        if brought_hwc is image_hwc:
            yield from (self.labels.decide(band.probabilities) for band in self._blend(image_hwc))
        else:
            yield from map(self.labels.decide_planes, self._resized_bands(brought_hwc, image_hwc.shape[:2]))

    def _resized_bands(self, brought_hwc: np.ndarray, shape: tuple[int, int]) -> Iterator[np.ndarray]:
        bands = (band.probabilities for band in self._blend(brought_hwc))
        return resize_bands(bands, brought_hwc.shape[:2], shape)

    def _blend(self, brought_hwc: np.ndarray) -> Iterator[Band]:
        settings = self.config.inference
        return blend_windows(
            brought_hwc,
            self.weighted_forward,
            tile=self._window(brought_hwc),
            overlap=settings.overlap,
            batch_size=1 if self._fits(brought_hwc) else settings.batch_size,
            fill=self.fill,
        )

    def weighted_forward(self, windows_bhwc: np.ndarray, weights_bh: np.ndarray, weights_bw: np.ndarray) -> jax.Array:
        """Return the probabilities of the windows times the weights of their rows and columns."""
        return weigh(self.windows_forward(windows_bhwc), weights_bh, weights_bw)

    def _window(self, brought_hwc: np.ndarray) -> tuple[int, int]:
        return window_for(brought_hwc.shape[:2], self.config)

    def _fits(self, brought_hwc: np.ndarray) -> bool:
        return all(size <= side for size, side in zip(brought_hwc.shape[:2], self._window(brought_hwc), strict=True))

    def shares_window(self, brought_hwc: np.ndarray) -> bool:
        """Return whether an image, at the size at which it is segmented, fits into the window that all share."""
        return self._fits(brought_hwc) and self._window(brought_hwc) == self.tile

    def _groups(self, items: Iterable["_Item"]) -> Iterator[list["_Item"]]:
        """Yield the items in order: batches of images that fit into one window, and other images one by one."""
        small = []
        for item in items:
            shared = self.shares_window(item.brought_hwc)
            if small and (not shared or len(small) == self.config.inference.batch_size):
                yield small
                small = []
            if shared:
                small.append(item)
            else:
                yield [item]
        if small:
            yield small

    def _start(self, group: list["_Item"]) -> jax.Array | None:
        """Return the labels of a group that shares a window, still being computed; None for a large image.

        Where an image was resized, return probabilities: the labels are chosen at the size of the image.
        """
        first_hwc = group[0].brought_hwc
        if not self._fits(first_hwc):
            return None
        windows = [self.fill(item.brought_hwc, self._window(first_hwc)) for item in group]
        if len(group) > 1:
            windows += windows[-1:] * (self.config.inference.batch_size - len(group))
        probabilities_bhwk = self.windows_forward(np.stack(windows))
        resized = any(item.brought_hwc is not item.image_hwc for item in group)
        return probabilities_bhwk if resized else self.decide(probabilities_bhwk)

    def labels_at(self, probabilities_hwk: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return the labels that are decided after resizing the probabilities to the shape."""
        return labels_at(probabilities_hwk, shape, self.labels.decide_planes)


class _Item(NamedTuple):
    """An image to segment."""

    tag: Any  # the caller's
    image_hwc: np.ndarray  # at its own size
    brought_hwc: np.ndarray  # at the size at which it is segmented


def load_predictor(
    folder: str | Path, which: str = "best", overrides: Sequence[str] = (), model: CustomModel | None = None
) -> Predictor:
    """Return the predictor of a run directory or of an exported model folder.

    Args:
        folder: holds `config.yaml` and `classes.json`.
        which: checkpoint of a run, `best` or `last`. Averaged weights are used if there are any.
        overrides: changes of the config as `key=value`, for example `inference.mirror=true`.
        model: the network, where it comes from outside the package (`model.name: custom`).

    Raises:
        UserError: not such a folder, or weights that do not belong to its config.
    """
    folder = Path(folder)
    files, config, classes = read_settings(folder, overrides)
    if model is not None and config.model.name != "custom":
        raise UserError(f"{folder}: its model is {config.model.name}, of this package; leave model=... out")
    network = build_model(config.model, model)
    if files:
        variables = load_weights(files)
    else:
        variables, progress = restore_for_inference(folder / "checkpoints", which)
        config = with_thresholds(config, progress.get("thresholds", ()))
    check_variables(variables, config, folder, network)
    return Predictor(config, classes, variables, model=model)
