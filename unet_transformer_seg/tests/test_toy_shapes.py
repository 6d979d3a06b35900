"""The generated data set: pure in (seed, split, index), shapes as their outlines say, colours that say nothing."""

import colorsys
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from seg.config import DataConfig, ToyConfig
from seg.data import toy_shapes
from seg.data.toy_shapes import ToyShapes

CONFIG = DataConfig(size=(48, 48), toy=ToyConfig(num_train=300, num_val=20, num_test=10))


def test_a_sample_is_a_function_of_seed_split_and_index():
    one, other = ToyShapes(CONFIG, "train", 3), ToyShapes(CONFIG, "train", 3)
    with ThreadPoolExecutor(4) as pool:
        from_threads = list(pool.map(one.__getitem__, range(8)))
    for index in (7, 0, 3):
        np.testing.assert_array_equal(from_threads[index].image, other[index].image)
        np.testing.assert_array_equal(from_threads[index].mask, other[index].mask)


def test_no_two_samples_are_alike_across_indices_splits_and_seeds():
    sets = [ToyShapes(CONFIG, split, seed) for split in ("train", "val", "test") for seed in (0, 1, 2)]
    images = {dataset[index].image.tobytes() for dataset in sets for index in range(10)}
    assert len(images) == len(sets) * 10


def test_lengths_types_and_sizes():
    for split, length in (("train", 300), ("val", 20), ("test", 10)):
        assert len(ToyShapes(CONFIG, split)) == length
    sample = ToyShapes(dataclasses.replace(CONFIG, size=(40, 72)), "val")[0]
    assert sample.image.shape == (40, 72, 3) and sample.mask.shape == (40, 72)
    assert sample.image.dtype == np.uint8 and sample.mask.dtype == np.uint8
    with pytest.raises(IndexError, match="20 val samples"):
        ToyShapes(CONFIG, "val")[20]


def test_generate_sample_has_channels_first_and_counts_up():
    dataset = ToyShapes(CONFIG, "test")
    image_chw, mask_hw = dataset.generate_sample(1)
    assert image_chw.shape == (3, 48, 48) and image_chw.dtype == np.float32
    assert image_chw.min() >= 0 and image_chw.max() <= 1
    np.testing.assert_array_equal(np.round(np.moveaxis(image_chw, 0, -1) * 255), dataset[1].image)
    np.testing.assert_array_equal(mask_hw, dataset[1].mask)
    in_turn = [dataset.generate_sample()[1] for _ in range(11)]
    np.testing.assert_array_equal(in_turn[1], mask_hw)
    np.testing.assert_array_equal(in_turn[10], in_turn[0])


def test_every_class_occurs_in_many_samples():
    dataset = ToyShapes(CONFIG, "train")
    labels = [np.unique(dataset[i].mask) for i in range(100)]
    occurs_k = np.bincount(np.concatenate(labels), minlength=6)
    assert occurs_k[0] == 100 and occurs_k[1:].min() > 15


def test_each_class_keeps_to_its_part_of_the_colour_circle():
    rng = np.random.default_rng(0)
    num_shapes, deviations = len(toy_shapes.DISTANCES), []
    for i in range(2000):
        label = 1 + i % num_shapes
        hue = colorsys.rgb_to_hsv(*toy_shapes.class_colour(rng, label, num_shapes))[0]
        deviations.append((hue - (label - 1) / num_shapes + 0.5) % 1 - 0.5)
    assert 0.07 < max(deviations) < 0.5 / num_shapes
    assert 0.07 < -min(deviations) < 0.5 / num_shapes


def test_noise_is_the_setting():
    quiet = ToyShapes(dataclasses.replace(CONFIG, toy=ToyConfig(noise=0.0)), "train")
    noisy = ToyShapes(dataclasses.replace(CONFIG, toy=ToyConfig(noise=0.05)), "train")
    difference = noisy[0].image.astype(float) - quiet[0].image
    assert 0.04 < difference.std() / 255 < 0.055
    np.testing.assert_array_equal(quiet[0].mask, noisy[0].mask)


def corners(distance_name: str, form: float) -> list[tuple[float, float]]:
    """Return the corners (x, y) of the outline, in order."""
    if distance_name == "rectangle":
        a, b = 0.95, 0.95 * (0.5 + 0.5 * form)
        return [(-a, -b), (a, -b), (a, b), (-a, b)]
    if distance_name == "triangle":
        return [(0, 1), (-(0.7 + 0.4 * form), 1 - 1.7), (0.7 + 0.4 * form, 1 - 1.7)]
    radii = [1, 0.4 + 0.1 * form]
    return [(radii[i % 2] * np.cos(i * np.pi / 5), radii[i % 2] * np.sin(i * np.pi / 5)) for i in range(10)]


def is_inside(x: float, y: float, polygon: list[tuple[float, float]]) -> bool:
    """Count the edges that a ray to the right crosses: odd is inside."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize("name", ["rectangle", "triangle", "star"])
def test_outlines_are_those_of_the_polygons(name):
    rng = np.random.default_rng(0)
    for form in (0.0, 0.7):
        points = rng.uniform(-1.2, 1.2, (300, 2))
        distance = getattr(toy_shapes, name)(points[:, 1], points[:, 0], form)
        expected = [is_inside(x, y, corners(name, form)) for x, y in points]
        np.testing.assert_array_equal(distance < 0, expected)


def test_circle_and_ring_are_round():
    radius = np.linspace(0, 1.2, 50)
    y, x = radius * np.sin(1.0), radius * np.cos(1.0)
    np.testing.assert_array_equal(toy_shapes.circle(y, x, 0.5) < 0, radius < 1)
    np.testing.assert_array_equal(toy_shapes.ring(y, x, 0.5) < 0, (radius > 0.5) & (radius < 1))
