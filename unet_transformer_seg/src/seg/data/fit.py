"""Fits images of any size to the model, and its predictions back to the size of the image.

Training, validation and prediction share these functions, so that a model always sees images prepared alike.

Letters: h w rows and columns, k classes.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image

from seg.classes import IGNORE_LABEL
from seg.config import Config, DataConfig
from seg.data.dataset import Sample

Shape = tuple[int, int]  # rows and columns

BAND_VALUES = 1 << 22  # probabilities that are resized at once: 16 MiB


def fit_sample(sample: Sample, config: DataConfig, rng: np.random.Generator | None = None) -> Sample:
    """Return the sample at `config.size`, by `config.fit`; `rng` draws the position of a crop, else the centre."""
    if sample.mask.shape[:2] == config.size:
        return sample
    image_hwc, mask_hw = sample.image, sample.mask
    if config.fit == "resize":
        shape = shape_within(mask_hw.shape[:2], config.size)
        image_hwc, mask_hw = resize_image(image_hwc, shape), resize_mask(mask_hw, shape)
    else:
        spare = [max(0, side - length) for side, length in zip(mask_hw.shape, config.size, strict=False)]
        top, left = (n // 2 for n in spare) if rng is None else (int(rng.integers(n + 1)) for n in spare)
        window = (slice(top, top + config.size[0]), slice(left, left + config.size[1]))
        image_hwc, mask_hw = image_hwc[window], mask_hw[window]
    # Both ways may leave room at the bottom and right: black pixels that neither loss nor metric counts.
    return Sample(fill_up(image_hwc, config.size), fill_up(mask_hw, config.size, IGNORE_LABEL), sample.name)


def fitted_shape(shape: Shape, config: DataConfig) -> Shape:
    """Return the part of `config.size` that a sample of this shape covers; the rest is padding."""
    if config.fit == "resize":
        return shape_within(shape, config.size)
    return min(shape[0], config.size[0]), min(shape[1], config.size[1])


def shape_within(shape: Shape, size: Shape) -> Shape:
    """Return the largest shape of the same aspect ratio within `size`."""
    factor = min(size[0] / shape[0], size[1] / shape[1])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resize_image(image_hwc: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the image resized, bilinear and antialiased; one of that size is returned unchanged."""
    if image_hwc.shape[:2] == shape:
        return image_hwc
    if image_hwc.shape[2] == 3 and image_hwc.dtype == np.uint8:
        return _resize_plane(image_hwc, shape)
    # Pillow resizes the channels of bytes one by one, too, so other numbers of channels get equal values.
    return np.stack(
        [_resize_plane(np.ascontiguousarray(image_hwc[..., c]), shape) for c in range(image_hwc.shape[2])], -1
    )


def _resize_plane(plane: np.ndarray, shape: Shape) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize(shape[::-1], Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the labels, [h, w] or [h, w, k], of the nearest pixels: the mean of classes 1 and 3 is not class 2."""
    if mask.ndim == 3:
        return np.stack([resize_mask(np.ascontiguousarray(plane), shape) for plane in np.moveaxis(mask, -1, 0)], -1)
    return np.asarray(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST))


def fill_up(array: np.ndarray, size: Shape, value: int = 0) -> np.ndarray:
    """Return image or mask padded with `value` at the bottom and right to at least `size`."""
    missing = [max(0, length - side) for side, length in zip(array.shape, size, strict=False)]
    if not any(missing):
        return array
    return np.pad(array, [(0, n) for n in missing] + [(0, 0)] * (array.ndim - 2), constant_values=value)


def is_fitted(config: Config) -> bool:
    """Return whether prediction resizes images into the data size, as training does."""
    return config.inference.scale == "trained" and config.data.fit == "resize"


def predicted_shape(shape: Shape, config: Config) -> Shape:
    """Return the rows and columns at which an image of this shape is segmented (`inference.scale`)."""
    scale = config.inference.scale
    if is_fitted(config):
        return shape_within(shape, config.data.size)
    if isinstance(scale, str):
        return shape
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def window_shape(config: Config) -> Shape:
    """Return rows and columns of the window: `inference.tile`, where 0 means the data size.

    Images resized into the data size need no larger window.
    """
    window = tuple(side or size for side, size in zip(config.inference.tile, config.data.size, strict=True))
    return tuple(map(min, window, config.data.size)) if is_fitted(config) else window


def window_for(shape: Shape, config: Config) -> Shape:
    """Return rows and columns of the window for an image segmented at `shape`: the image's own if it fits whole."""
    # Whole if it is small enough: no seams, at the price of one compilation per size.
    whole = config.data.size if is_fitted(config) else shape
    return whole if whole[0] * whole[1] <= config.inference.whole_up_to else window_shape(config)


def is_answered_in_training(shape: Shape, config: Config) -> bool:
    """Return whether training and prediction look at the same single window of an image of this shape."""
    predicted = predicted_shape(shape, config)
    return fitted_shape(shape, config.data) == predicted and window_for(predicted, config) == config.data.size


def resize_bands(bands: Iterable[np.ndarray], source: Shape, target: Shape) -> Iterator[np.ndarray]:
    """Yield class probabilities resized, float32[k, rows, W], top to bottom: bilinear, antialiased when shrinking.

    `bands` is the source from top to bottom, float32[rows, w, k] each, `source` its (h, w), `target` the (H, W) of the
    result. Memory holds only the source rows of one band of the result.
    """
    step = source[0] / target[0]
    reach = max(step, 1.0) + 1.0  # source rows that a row of the result needs to either side
    bands, held_khw, top, start = iter(bands), None, 0, 0
    while start < target[0]:
        if held_khw is None:
            held_khw = _planes(next(bands))
        end = min(target[0], start + max(1, BAND_VALUES // (len(held_khw) * target[1])))
        # Source rows low … high contribute to result rows start … end: read up to high, forget those above low.
        low, high = max(0, math.floor(start * step - reach)), min(source[0], math.ceil(end * step + reach))
        parts = [held_khw]
        while top + sum(part.shape[1] for part in parts) < high:
            parts.append(_planes(next(bands)))
        held_khw, top = np.concatenate(parts, axis=1)[:, low - top :], low
        box = (0, start * step - low, source[1], min(end * step, source[0]) - low)
        planes = (Image.fromarray(np.ascontiguousarray(plane_hw[: high - low])) for plane_hw in held_khw)
        size = target[1], end - start
        yield np.stack([np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box=box)) for plane in planes])
        start = end


def _planes(probabilities_hwk: np.ndarray) -> np.ndarray:
    return np.moveaxis(probabilities_hwk, -1, 0)


def labels_at(
    probabilities_hwk: np.ndarray, shape: Shape, decide_planes: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return uint8[*shape] or [*shape, k], what is decided after resizing the probabilities to the shape.

    `decide_planes` is that of `seg.labels`.
    """
    source = probabilities_hwk.shape[:2]
    if source == shape:
        return decide_planes(_planes(probabilities_hwk))
    bands = resize_bands([probabilities_hwk], source, shape)
    return np.concatenate([decide_planes(band_khw) for band_khw in bands])
