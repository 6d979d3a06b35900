"""Generated pictures of overlapping shapes, to try a model within minutes and without a download.

Every sample is a pure function of (seed, split, index). Shapes are rotated, overlap, and are cut by the picture's edge.
Texture and shading are independent of the class. Hue is not: each class keeps to a fifth of the colour circle, blurred
by noise, shade and the tint of the ground. A network that also uses the outlines does better.

With `data.toy.overlap` the shapes are lights on a dark ground, as of stains under a microscope: red, green and blue
ones add up. A pixel has the label of every shape that covers it, and none on the ground.

Letters: h w pixels. Lengths are in units of the picture's shorter side; angles in radians.
"""

import colorsys
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from seg.classes import make_class_table
from seg.config import DataConfig
from seg.data.dataset import Sample, SegmentationDataset
from seg.errors import UserError

SPLITS = ("train", "val", "test")
MIN_RADIUS, MAX_RADIUS = 0.18, 0.34
HUE_SPREAD = 0.08
"""Largest deviation from a class's hue, in turns; the hues of neighbouring classes are 0.2 apart."""


OVERLAPPING = make_class_table(("circle", "rectangle", "star"), overlapping=True)


class ToyShapes(SegmentationDataset):
    """Textured shapes on a textured ground: background, circle, rectangle, triangle, ring, star."""

    classes = make_class_table(("background", "circle", "rectangle", "triangle", "ring", "star"))

    def __init__(self, config: DataConfig, split: str, seed: int = 0):
        """Describe a split; "train", "val" and "test" share no sample."""
        if config.channels != 3:
            raise UserError(f"data.channels: {config.dataset} draws 3 channels, expected 3, found {config.channels}")
        self._name, self._size, self._toy = config.dataset, config.size, config.toy
        if config.toy.overlap:
            self.classes = OVERLAPPING
        self._length = {"train": config.toy.num_train, "val": config.toy.num_val, "test": config.toy.num_test}[split]
        self._split, self._seed = split, seed
        self._calls = itertools.count()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._length:
            raise IndexError(f"index {index} is outside the {self._length} {self._split} samples of {self._name}")
        image_hwc, mask_hw = self._draw(index)
        image_hwc = np.round(image_hwc * 255).astype(np.uint8)
        return Sample(image_hwc, mask_hw, f"{self._split}_{index:05d}")

    def generated_from(self) -> dict[str, Any]:
        """Return the settings that determine the samples."""
        toy = {"max_shapes": self._toy.max_shapes, "noise": self._toy.noise}
        toy |= {"overlap": True} if self._toy.overlap else {}
        return {"samples": self._length, "size": list(self._size), "seed": self._seed, **toy}

    def generate_sample(self, index: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (image: float32[3, h, w] in 0…1, mask: uint8[h, w]) of a sample; None takes the next at each call."""
        index = next(self._calls) % self._length if index is None else index
        image_hwc, mask_hw = self._draw(index)
        return np.moveaxis(image_hwc, -1, 0), mask_hw

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, SPLITS.index(self._split), index))

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (float32[h, w, 3], uint8[h, w]), or the mask uint8[h, w, k] of overlapping shapes."""
        if self.classes.overlapping:
            return self._draw_lights(index)
        rng = self._rng(index)
        y_hw, x_hw = pixel_grid(*self._size)
        mask_hw = np.zeros(self._size, np.uint8)
        # The ground is close to grey.
        image_hwc = texture(rng, y_hw, x_hw, rng.uniform(0.2, 0.8) + rng.uniform(-0.08, 0.08, 3))
        for _ in range(rng.integers(1, self._toy.max_shapes + 1)):
            label = int(rng.integers(1, len(self.classes)))
            outside_hw = place_shape(rng, DISTANCES[label - 1], y_hw, x_hw)
            texture_hwc = texture(rng, y_hw, x_hw, class_colour(rng, label, len(DISTANCES)))
            cover_hw = np.clip(0.5 - min(self._size) * outside_hw, 0, 1)  # the outline, antialiased over one pixel
            image_hwc += cover_hw[..., None] * (texture_hwc - image_hwc)
            mask_hw[outside_hw < 0] = label
        noise_hwc = rng.standard_normal(image_hwc.shape, np.float32)
        return np.clip(image_hwc + self._toy.noise * noise_hwc, 0, 1), mask_hw

    def _draw_lights(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (float32[h, w, 3], uint8[h, w, k])."""
        rng = self._rng(index)
        y_hw, x_hw = pixel_grid(*self._size)
        mask_hwk = np.zeros((*self._size, len(self.classes)), np.uint8)
        image_hwc = texture(rng, y_hw, x_hw, rng.uniform(0.0, 0.15) + rng.uniform(0, 0.05, 3))
        for _ in range(rng.integers(1, self._toy.max_shapes + 1)):
            k = int(rng.integers(len(self.classes)))
            outside_hw = place_shape(rng, LIGHTS[k], y_hw, x_hw)
            light_hwc = texture(rng, y_hw, x_hw, class_colour(rng, 1 + k, len(LIGHTS), dullest=0.9))
            image_hwc += np.clip(0.5 - min(self._size) * outside_hw, 0, 1)[..., None] * np.clip(light_hwc, 0, 1)
            mask_hwk[..., k] |= outside_hw < 0
        noise_hwc = rng.standard_normal(image_hwc.shape, np.float32)
        return np.clip(image_hwc + self._toy.noise * noise_hwc, 0, 1), mask_hwk


@functools.lru_cache(maxsize=8)
def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres (y, x) of the pixels, float32[h, w] each, in units of the shorter side."""
    side = min(height, width)
    y_h, x_w = (np.arange(height, dtype=np.float32) + 0.5) / side, (np.arange(width, dtype=np.float32) + 0.5) / side
    return tuple(np.meshgrid(y_h, x_w, indexing="ij"))


# Each function returns roughly the distance of a point from a shape of radius 1 at the origin, negative inside.
# `form` in 0…1 varies the proportions.


def circle(y_hw: np.ndarray, x_hw: np.ndarray, form: float) -> np.ndarray:
    """Return the distance from a circle."""
    return np.hypot(y_hw, x_hw) - 1


def rectangle(y_hw: np.ndarray, x_hw: np.ndarray, form: float) -> np.ndarray:
    """Return the distance from a rectangle, 2:1 to square."""
    return np.maximum(np.abs(x_hw) - 0.95, np.abs(y_hw) - 0.95 * (0.5 + 0.5 * form))


def triangle(y_hw: np.ndarray, x_hw: np.ndarray, form: float) -> np.ndarray:
    """Return the distance from an isosceles triangle of base 1.4 to 2.2 and height 1.7."""
    base, height = 0.7 + 0.4 * form, 1.7
    slope = np.hypot(base, height)
    side_hw = (height * np.abs(x_hw) + base * (y_hw - 1)) / slope
    return np.maximum(side_hw, 1 - height - y_hw)


def ring(y_hw: np.ndarray, x_hw: np.ndarray, form: float) -> np.ndarray:
    """Return the distance from a ring whose hole has a radius of 0.4 to 0.6."""
    hole = 0.4 + 0.2 * form
    return np.abs(np.hypot(y_hw, x_hw) - (1 + hole) / 2) - (1 - hole) / 2


def star(y_hw: np.ndarray, x_hw: np.ndarray, form: float) -> np.ndarray:
    """Return the distance from a five-pointed star with inner corners at 0.4 to 0.5."""
    sector, inner = np.pi / 5, 0.4 + 0.1 * form
    angle_hw = np.abs((np.arctan2(y_hw, x_hw) + sector) % (2 * sector) - sector)
    radius_hw = np.hypot(y_hw, x_hw)
    across, along = inner * np.sin(sector), 1 - inner * np.cos(sector)
    edge_hw = across * (radius_hw * np.cos(angle_hw) - 1) + along * radius_hw * np.sin(angle_hw)
    return edge_hw / np.hypot(across, along)


DISTANCES: tuple[Callable, ...] = (circle, rectangle, triangle, ring, star)
"""The outline of each class, in the order of the labels 1, 2, …"""


LIGHTS = circle, rectangle, star
"""The outlines of the overlapping classes."""


def place_shape(rng: np.random.Generator, distance: Callable, y_hw: np.ndarray, x_hw: np.ndarray) -> np.ndarray:
    """Return float32[h, w], the distance from a shape at a random position, angle and size."""
    radius = rng.uniform(MIN_RADIUS, MAX_RADIUS)
    centre_y, centre_x = rng.uniform(0.08, 0.92, 2) * (y_hw[-1, 0], x_hw[0, -1])
    turn = rng.uniform(0, 2 * np.pi)
    dy_hw, dx_hw = (y_hw - np.float32(centre_y)) / radius, (x_hw - np.float32(centre_x)) / radius
    sine, cosine = np.float32(np.sin(turn)), np.float32(np.cos(turn))
    return radius * distance(cosine * dy_hw - sine * dx_hw, sine * dy_hw + cosine * dx_hw, rng.uniform())


def class_colour(rng: np.random.Generator, label: int, num_shapes: int, dullest: float = 0.5) -> np.ndarray:
    """Return a random colour [3] of a hue within HUE_SPREAD of that of the class `label` = 1 … num_shapes.

    Its saturation is `dullest` or more.
    """
    hue = (label - 1) / num_shapes + rng.uniform(-HUE_SPREAD, HUE_SPREAD)
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(dullest, 1.0), rng.uniform(0.5, 0.95)))


def texture(rng: np.random.Generator, y_hw: np.ndarray, x_hw: np.ndarray, colour_c: np.ndarray) -> np.ndarray:
    """Return float32[h, w, 3]: a colour with waves of a random kind, lit from one side."""
    turn, light = rng.uniform(0, 2 * np.pi, 2)
    frequency = rng.uniform(15, 50)
    u_hw = frequency * (np.float32(np.cos(turn)) * x_hw + np.float32(np.sin(turn)) * y_hw)
    match rng.integers(3):
        case 0:
            wave_hw = np.zeros_like(u_hw)
        case 1:
            wave_hw = np.sin(u_hw)
        case _:
            v_hw = frequency * (np.float32(np.cos(turn)) * y_hw - np.float32(np.sin(turn)) * x_hw)
            wave_hw = np.sin(u_hw) * np.sin(v_hw)
    shade_hw = np.float32(np.cos(light)) * (x_hw - 0.5) + np.float32(np.sin(light)) * (y_hw - 0.5)
    wave, shade = rng.uniform(-0.15, 0.15), rng.uniform(0.0, 0.3)
    return (colour_c + (wave * wave_hw + shade * shade_hw)[..., None]).astype(np.float32)
