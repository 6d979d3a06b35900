"""Generated pictures whose classes depend on something far away: a task for attention.

A disc at the left edge, the key, is red or blue. Rings of any colour lie anywhere to the right of it. They are of one
class if the key is red, and of another if it is blue; a ring itself and its neighbourhood say nothing. So a network
must bring the colour of the key to the ring, however far apart they are.

Letters: h w pixels. Lengths are in units of the picture's shorter side.
"""

import colorsys

import numpy as np

from seg.classes import make_class_table
from seg.config import DataConfig
from seg.data.toy_shapes import ToyShapes, circle, pixel_grid, ring, texture
from seg.errors import UserError

KEY_PLACE, KEY_RADIUS = 0.15, 0.12
"""Distance of the key's centre from the left edge, and its radius."""

HUES = 0.0, 0.6  # red, blue
HUE_SPREAD = 0.06


class ToyFar(ToyShapes):
    """Rings on a textured ground, and the key: background, ring_of_red, ring_of_blue."""

    classes = make_class_table(("background", "ring_of_red", "ring_of_blue"))

    def __init__(self, config: DataConfig, split: str, seed: int = 0):
        """Describe a split; "train", "val" and "test" share no sample."""
        super().__init__(config, split, seed)
        if config.size[1] < 2 * config.size[0]:
            raise UserError(f"data.size: toy_far is at least twice as wide as high, found {list(config.size)}")

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (float32[h, w, 3] in 0…1, uint8[h, w])."""
        rng = self._rng(index)
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
