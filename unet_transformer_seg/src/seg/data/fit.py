"""Brings samples of any size to the one size that a batch needs."""

import numpy as np
from PIL import Image

from seg.classes import IGNORE_LABEL
from seg.config import DataConfig
from seg.data.dataset import Sample


def fit_sample(sample: Sample, config: DataConfig, rng: np.random.Generator | None = None) -> Sample:
    """Return the sample at `config.size`, in the way that `config.fit` says.

    Args:
        sample: of any size; one that has the size already is returned unchanged.
        config: `size` (height, width) and `fit`.
        rng: draws the place of a window; None takes the middle.
    """
    if sample.mask.shape == config.size:
        return sample
    image_hwc, mask_hw = sample.image, sample.mask
    if config.fit == "resize":
        image_hwc, mask_hw = shrink_or_grow(image_hwc, mask_hw, config.size)
    else:
        image_hwc, mask_hw = cut_window(image_hwc, mask_hw, config.size, rng)
    return Sample(*fill_up(image_hwc, mask_hw, config.size), sample.name)


def shrink_or_grow(image_hwc: np.ndarray, mask_hw: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return image (bilinear, antialiased) and mask (nearest), as large as fits into `size` at equal aspect."""
    height, width = mask_hw.shape
    factor = min(size[0] / height, size[1] / width)
    new_height, new_width = (max(1, round(n * factor)) for n in (height, width))
    image = Image.fromarray(image_hwc).resize((new_width, new_height), Image.Resampling.BILINEAR)
    mask = Image.fromarray(mask_hw).resize((new_width, new_height), Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(mask)


def cut_window(
    image_hwc: np.ndarray, mask_hw: np.ndarray, size: tuple[int, int], rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a window of at most `size` at the native resolution; `rng` places it, None takes the middle."""
    spare = [max(0, have - want) for have, want in zip(mask_hw.shape, size, strict=True)]
    top, left = (n // 2 for n in spare) if rng is None else (int(rng.integers(n + 1)) for n in spare)
    window = (slice(top, top + size[0]), slice(left, left + size[1]))
    return image_hwc[window], mask_hw[window]


def fill_up(image_hwc: np.ndarray, mask_hw: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask filled up at the bottom and right with black pixels that are ignored."""
    bottom, right = size[0] - mask_hw.shape[0], size[1] - mask_hw.shape[1]
    image_hwc = np.pad(image_hwc, ((0, bottom), (0, right), (0, 0)))
    return image_hwc, np.pad(mask_hw, ((0, bottom), (0, right)), constant_values=IGNORE_LABEL)
