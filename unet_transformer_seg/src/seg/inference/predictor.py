"""Segments images of any size with one compiled program.

Letters: b windows, h w rows and columns of a window or an image, k classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from seg.checkpoints import restore_variables
from seg.classes import ClassTable, MaskValues, load_class_table
from seg.compiler import compiler_options
from seg.config import Config
from seg.config_reader import load_config
from seg.data.class_settings import mask_values
from seg.errors import UserError
from seg.files import read_bounded
from seg.inference.checksums import CheckedFolder
from seg.inference.forward import make_forward, window_shape
from seg.inference.model_folder import check_variables, is_model_folder, load_weights
from seg.inference.tiling import Band, blend_windows, fill_up, one_behind
from seg.models import build_model

Tag = TypeVar("Tag")


class Predictor:
    """A trained model, ready to segment.

    Every call of the network has `inference.batch_size` windows of the shape `tile`, or a single one, so it is
    compiled twice at most, whatever sizes the images have. Only images that are computed whole
    (`inference.whole_up_to`) need a compilation for each size, and give what the network says of the image as it is.

    Attributes:
        config: settings of the run, of which `model`, `data.mean`, `data.std` and `inference` matter here.
        classes: names and colours.
        tile: rows and columns of the window.
        variables: the weights, on the device.
    """

    def __init__(self, config: Config, classes: ClassTable, variables: Any):
        self.config, self.classes = config, classes
        self.tile = window_shape(config)
        self.variables = jax.device_put(variables)
        forward = make_forward(build_model(config.model), config)
        self._probabilities = jax.jit(forward, compiler_options=compiler_options())

    @property
    def mask_values(self) -> MaskValues:
        """What stood for each class in the masks of the training data; empty where it was the class number."""
        return self.classes.mask_values or mask_values(self.config.data, len(self.classes))

    def predict(self, image_hwc: np.ndarray) -> np.ndarray:
        """Return the class of each pixel.

        Args:
            image_hwc: uint8[h, w, 3], RGB, any size.

        Returns:
            mask_hw: uint8[h, w], 0 … k-1.
        """
        ((_, _, mask_hw),) = self.predict_many([(None, image_hwc)])
        return mask_hw

    def predict_many(self, items: Iterable[tuple[Tag, np.ndarray]]) -> Iterator[tuple[Tag, np.ndarray, np.ndarray]]:
        """Yield (tag, image, mask) for each (tag, image), in order.

        Neighbours that fit into one window are computed in one batch; the next batch is read and started while the
        last one is used.
        """
        groups = ((group, self._start(group)) for group in self._groups(items))
        for group, labels_bhw in one_behind(groups):
            if labels_bhw is None:
                ((tag, image_hwc),) = group
                yield tag, image_hwc, self._predict_large(image_hwc)
                continue
            for (tag, image_hwc), label_hw in zip(group, np.asarray(labels_bhw), strict=False):
                yield tag, image_hwc, label_hw[: image_hwc.shape[0], : image_hwc.shape[1]].copy()

    def predict_bands(self, image_hwc: np.ndarray) -> Iterator[Band]:
        """Yield the class probabilities of an image from top to bottom, so that they need not be held at once.

        Args:
            image_hwc: uint8[h, w, 3], RGB, any size.

        Yields:
            bands of finished rows, see `seg.inference.tiling.Band`.
        """
        settings = self.config.inference
        return blend_windows(
            image_hwc,
            self._weighted,
            tile=self._window(image_hwc),
            overlap=settings.overlap,
            batch_size=1 if self._fits(image_hwc) else settings.batch_size,
        )

    def _weighted(self, windows_bhwc: np.ndarray, weights_bh: np.ndarray, weights_bw: np.ndarray) -> jax.Array:
        return weigh(self._probabilities(self.variables, windows_bhwc), weights_bh, weights_bw)

    def _window(self, image_hwc: np.ndarray) -> tuple[int, int]:
        """Return rows and columns of the window for an image: its own if it is to be computed whole."""
        chex.assert_shape(image_hwc, (None, None, 3))
        chex.assert_type(image_hwc, np.uint8)
        height, width, _ = image_hwc.shape
        return (height, width) if height * width <= self.config.inference.whole_up_to else self.tile

    def _fits(self, image_hwc: np.ndarray) -> bool:
        return all(size <= side for size, side in zip(image_hwc.shape[:2], self._window(image_hwc), strict=True))

    def _groups(self, items: Iterable[tuple[Tag, np.ndarray]]) -> Iterator[list[tuple[Tag, np.ndarray]]]:
        """Yield the items in order: a full batch of small images, what small ones are left, or one image alone."""
        small = []
        for item in items:
            shared = self._fits(item[1]) and self._window(item[1]) == self.tile
            if small and (not shared or len(small) == self.config.inference.batch_size):
                yield small
                small = []
            if shared:
                small.append(item)
            else:
                yield [item]
        if small:
            yield small

    def _start(self, group: list[tuple[Tag, np.ndarray]]) -> jax.Array | None:
        """Return the labels of a group that shares a window, still being computed; None for a large image."""
        first_hwc = group[0][1]
        if not self._fits(first_hwc):
            return None
        windows = [fill_up(image_hwc, self._window(first_hwc)) for _, image_hwc in group]
        if len(group) > 1:
            windows += windows[-1:] * (self.config.inference.batch_size - len(group))
        return most_probable(self._probabilities(self.variables, np.stack(windows)))

    def _predict_large(self, image_hwc: np.ndarray) -> np.ndarray:
        mask_hw = np.empty(image_hwc.shape[:2], np.uint8)
        for band in self.predict_bands(image_hwc):
            mask_hw[band.rows] = band.probabilities.argmax(-1)
        return mask_hw


@jax.jit
def weigh(probabilities_bhwk: jax.Array, weights_bh: jax.Array, weights_bw: jax.Array) -> jax.Array:
    """Return probabilities_bhwk · weights_bh · weights_bw, each pixel with the weight of its row and column."""
    chex.assert_equal_shape_prefix([probabilities_bhwk, weights_bh], 2)
    return probabilities_bhwk * weights_bh[:, :, None, None] * weights_bw[:, None, :, None]


@jax.jit
def most_probable(probabilities_bhwk: jax.Array) -> jax.Array:
    """Return uint8[b, h, w], the class of the highest probability; of equal ones the first."""
    return jnp.argmax(probabilities_bhwk, axis=-1).astype(jnp.uint8)


def load_predictor(folder: str | Path, which: str = "best", overrides: Sequence[str] = ()) -> Predictor:
    """Return the predictor of a run directory or of an exported model folder.

    Args:
        folder: either of the two; both hold `config.yaml` and `classes.json`.
        which: of a run directory, the `best` or `last` checkpoint. Averaged weights are used where there are some.
        overrides: changes of the config as `key=value`, for example `inference.mirror=true`.

    Raises:
        UserError: not such a folder, or weights that do not belong to its config.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: expected a run directory or a model folder, but it holds no config.yaml")
    files = CheckedFolder(folder) if is_model_folder(folder) else None
    read = files.read if files else read_bounded
    config = load_config(folder / "config.yaml", overrides, read)
    classes = load_class_table(folder / "classes.json", read)
    if len(classes) != config.model.num_classes:
        raise UserError(
            f"{folder}: classes.json names {len(classes)} classes, and config.yaml has model.num_classes: "
            f"{config.model.num_classes}; they must be the same model's"
        )
    if files:
        return Predictor(config, classes, load_weights(files, config))
    variables = restore_variables(folder / "checkpoints", which)
    check_variables(variables, config, folder)
    return Predictor(config, classes, variables)
