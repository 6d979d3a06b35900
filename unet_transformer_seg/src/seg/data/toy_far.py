"""Generated pictures whose classes depend on something far away: a task for attention.

A disc at the left edge, the key, is red or blue. Rings of any colour lie anywhere to the right of it. They are of one
class if the key is red, and of another if it is blue; a ring itself and its neighbourhood say nothing. So a network
must bring the colour of the key to the ring, however far apart they are.

Letters: h w pixels. Lengths are in units of the picture's shorter side.
"""

import colorsys
from typing import Any

import numpy as np

from seg.classes import make_class_table
from seg.config import DataConfig
from seg.data.dataset import Sample, SegmentationDataset
from seg.data.toy_shapes import SPLITS, circle, pixel_grid, ring, texture
from seg.errors import UserError

KEY_PLACE, KEY_RADIUS = 0.15, 0.12
"""Distance of the key's centre from the left edge, and its radius."""

HUES = 0.0, 0.6  # red, blue
HUE_SPREAD = 0.06


class ToyFar(SegmentationDataset):
    """Rings on a textured ground, and the key: background, ring_of_red, ring_of_blue."""

    classes = make_class_table(("background", "ring_of_red", "ring_of_blue"))

    def __init__(self, config: DataConfig, split: str, seed: int = 0):
        """Describe a split; "train", "val" and "test" share no sample."""
        if config.channels != 3:
            raise UserError(f"data.channels: toy_far draws 3 channels, expected 3, found {config.channels}")
        if config.size[1] < 2 * config.size[0]:
            raise UserError(f"data.size: toy_far is at least twice as wide as high, found {list(config.size)}")
        self._size, self._toy = config.size, config.toy
        self._length = {"train": config.toy.num_train, "val": config.toy.num_val, "test": config.toy.num_test}[split]
        self._split, self._seed = split, seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._length:
            raise IndexError(f"index {index} is outside the {self._length} {self._split} samples of toy_far")
        image_hwc, mask_hw = self._draw(np.random.default_rng((self._seed, SPLITS.index(self._split), index)))
        return Sample(np.round(image_hwc * 255).astype(np.uint8), mask_hw, f"{self._split}_{index:05d}")

    def generated_from(self) -> dict[str, Any]:
        """Return the settings that determine the samples."""
        toy = {"max_shapes": self._toy.max_shapes, "noise": self._toy.noise}
        return {"samples": self._length, "size": list(self._size), "seed": self._seed, **toy}

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return (float32[h, w, 3] in 0…1, uint8[h, w])."""
        y_hw, x_hw = pixel_grid(*self._size)
        mask_hw = np.zeros(self._size, np.uint8)
        image_hwc = texture(rng, y_hw, x_hw, rng.uniform(0.2, 0.8) + rng.uniform(-0.08, 0.08, 3))
        key = int(rng.integers(2))
        key_hue = HUES[key] + rng.uniform(-HUE_SPREAD, HUE_SPREAD)
        place = rng.uniform(0.2, 0.8) * y_hw[-1, 0], KEY_PLACE
        self._paint(rng, image_hwc, key_hue, KEY_RADIUS * circle(*self._around(*place, KEY_RADIUS), 0.0))
        for _ in range(rng.integers(1, self._toy.max_shapes + 1)):
            radius = rng.uniform(0.12, 0.22)
            # Anywhere to the right of the key, which no ring covers.
            centre = rng.uniform(0.1, 0.9) * y_hw[-1, 0], rng.uniform(KEY_PLACE + 0.4, x_hw[0, -1])
            outside_hw = radius * ring(*self._around(*centre, radius), rng.uniform())
            self._paint(rng, image_hwc, rng.uniform(), outside_hw)
            mask_hw[outside_hw < 0] = 1 + key
        noise_hwc = rng.standard_normal(image_hwc.shape, np.float32)
        return np.clip(image_hwc + self._toy.noise * noise_hwc, 0, 1), mask_hw

    def _around(self, centre_y: float, centre_x: float, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels' offsets from a centre, in units of the radius."""
        y_hw, x_hw = pixel_grid(*self._size)
        return (y_hw - np.float32(centre_y)) / radius, (x_hw - np.float32(centre_x)) / radius

    def _paint(self, rng: np.random.Generator, image_hwc: np.ndarray, hue: float, outside_hw: np.ndarray) -> None:
        """Draw a shape of a hue, in turns of the colour circle, into the image."""
        y_hw, x_hw = pixel_grid(*self._size)
        paint_c = np.array(colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(0.6, 1.0), rng.uniform(0.5, 0.95)))
        cover_hw = np.clip(0.5 - min(self._size) * outside_hw, 0, 1)[..., None]
        image_hwc += cover_hw * (texture(rng, y_hw, x_hw, paint_c) - image_hwc)
