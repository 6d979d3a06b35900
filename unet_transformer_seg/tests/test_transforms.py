"""Changes of a batch: image and labels stay together, each is pure in its key, and nothing comes from nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from seg.config import AugmentConfig, DataConfig
from seg.config.schema import IMAGENET
from seg.data.geometry import random_flip, random_resized_crop, random_rotation, resample, rotate
from seg.data.transforms import (
    copy_paste,
    hue_turn,
    jitter_colour,
    make_augment,
    make_preprocess,
    normalise,
    random_blur,
    random_noise,
)

STEP = 40
"""In a batch that shows its own labels, label n is the grey value n·STEP."""

GEOMETRY = {
    "flip": AugmentConfig(flip=0.5),
    "scale": AugmentConfig(crop=(24, 32), scale=(0.5, 2.0), aspect=0.2),
    "rotation": AugmentConfig(rotate_degrees=30),
    "copy_paste": AugmentConfig(copy_paste=1.0),
    "together": AugmentConfig(crop=(32, 40), scale=(0.7, 1.5), aspect=0.1, flip=0.5, rotate_degrees=10),
}
IMAGE_ONLY = {
    "colour": AugmentConfig(brightness=0.3, contrast=0.2, saturation=0.2, hue=0.1),
    "blur and noise": AugmentConfig(blur=0.5, noise=0.1),
}
EXACT = ("flip", "copy_paste")


def config(augment=None, size=(40, 48)):
    return DataConfig(size=size, mean=(0, 0, 0), std=(1, 1, 1), augment=augment or AugmentConfig())


@functools.cache
def augment(name):
    """Return the jitted augmentation of a table above, compiled once for all tests."""
    return jax.jit(make_augment(config((GEOMETRY | IMAGE_ONLY)[name])))


FLIP, PASTE, ROTATE, JITTER, BLUR, NOISE, RESAMPLE, TURN = map(
    jax.jit,
    (random_flip, copy_paste, random_rotation, jitter_colour, random_blur, random_noise, resample, rotate),
)
CROP = jax.jit(random_resized_crop, static_argnames=("crop", "scale", "aspect"))


def blocks(batch=4, size=(40, 48), num_labels=5, seed=0):
    """Return a batch whose image is its labels, in blocks of 8 pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_labels, (batch, size[0] // 8, size[1] // 8), dtype=np.uint8)
    labels = np.kron(coarse, np.ones((1, 8, 8), np.uint8))
    return np.repeat(labels[..., None] * STEP, 3, axis=-1).astype(np.uint8), labels


def random_batch(batch=32, size=(16, 16), seed=0):
    """Return a batch of noise; one shape in most tests saves compilations."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(batch, *size, 3)).astype(np.float32), rng.integers(0, 5, (batch, *size), np.int32)


def interior(labels, reach):
    """Return where all pixels up to `reach` rows and columns away have the pixel's own label."""
    size = 2 * reach + 1
    padded = np.pad(labels, ((0, 0), (reach, reach), (reach, reach)), constant_values=254)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    return (windows == labels[..., None, None]).all((-1, -2))


@pytest.mark.parametrize("name", GEOMETRY)
def test_image_and_labels_move_together(name, key):
    image, labels = blocks()
    new_image, new_labels = map(np.array, augment(name)(key, image, labels))
    shown = np.where(new_labels == 255, 0, new_labels * STEP)
    difference = np.abs(new_image * 255 - shown[..., None]).max(-1)
    assert not np.array_equal(new_labels, labels)
    if name in EXACT:
        assert difference.max() < 1e-4
    else:
        inner = interior(new_labels, reach=2 if name == "together" else 1)  # interpolated twice, or once
        assert inner.mean() > 0.2
        assert difference[inner].max() < 1e-3
    if name != "together":
        assert difference[new_labels == 255].max(initial=0) == 0


@pytest.mark.parametrize("name", GEOMETRY)
def test_labels_only_take_values_that_were_there(name, key):
    image, labels = blocks(num_labels=3)
    labels = labels * 100  # 0, 100, 200: a mixture would be another value
    _, new_labels = augment(name)(key, image, labels)
    assert new_labels.dtype == jnp.int32
    assert set(np.unique(new_labels)) <= {0, 100, 200, 255}


@pytest.mark.parametrize("name", [*GEOMETRY, *IMAGE_ONLY])
def test_a_change_is_a_function_of_its_key(name, keys):
    image, labels = blocks()
    run, one, other = augment(name), keys(), keys()
    first, again, different = run(one, image, labels), run(one, image, labels), run(other, image, labels)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], different[0])


def test_nothing_switched_on_is_the_preprocessing(key):
    image, labels = blocks()
    data = DataConfig(size=(40, 48))
    augmented = jax.jit(make_augment(data))(key, image, labels)
    plain = jax.jit(make_preprocess(data))(image, labels)
    for a, b in zip(augmented, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    expected = (image / 255.0 - np.array(IMAGENET[0])) / np.array(IMAGENET[1])
    np.testing.assert_allclose(plain[0], expected, atol=1e-5)
    assert plain[0].dtype == jnp.float32 and plain[1].dtype == jnp.int32


def test_settings_of_zero_are_exactly_the_identity(key):
    image, labels = random_batch()
    same = CROP(key, image, labels, crop=(16, 16), scale=(1.0, 1.0), aspect=0.0)
    changes = [
        FLIP(key, image, labels, probability=0.0),
        PASTE(key, image, labels, probability=0.0),
        ROTATE(key, image, labels, degrees=0.0),
        same,
    ]
    images = [
        JITTER(key, image, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0),
        BLUR(key, image, probability=0.0),
        NOISE(key, image, largest_std=0.0),
        normalise(image, (0, 0, 0), (1, 1, 1)),
    ]
    for new_image, new_labels in changes:
        np.testing.assert_array_equal(new_image, image)
        np.testing.assert_array_equal(new_labels, labels)
    for new_image in images:
        np.testing.assert_array_equal(new_image, image)


def test_samples_of_a_batch_are_drawn_apart(key):
    image, labels = random_batch()
    flipped = np.array(FLIP(key, image, labels, probability=0.5)[1])
    is_flipped = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, labels, strict=True)]
    is_same = [np.array_equal(a, b) for a, b in zip(flipped, labels, strict=True)]
    assert all(a != b for a, b in zip(is_flipped, is_same, strict=True))
    assert 8 < sum(is_flipped) < 24


def test_a_crop_starts_at_every_place_and_at_whole_pixels(key):
    labels = np.arange(8 * 10, dtype=np.int32).reshape(1, 8, 10).repeat(64, axis=0)
    image = np.repeat(labels[..., None].astype(np.float32), 3, axis=-1)
    new_image, new_labels = map(np.array, CROP(key, image, labels, crop=(6, 7), scale=(1.0, 1.0), aspect=0.0))
    starts = {divmod(int(found[0, 0]), 10) for found in new_labels}
    assert {y for y, _ in starts} == {0, 1, 2} and {x for _, x in starts} == {0, 1, 2, 3}
    np.testing.assert_array_equal(new_image[..., 0], new_labels)
    for found in new_labels:
        y, x = divmod(int(found[0, 0]), 10)
        np.testing.assert_array_equal(found, labels[0, y : y + 6, x : x + 7])


def test_what_lies_outside_is_black_and_ignored(key):
    image, labels = np.ones((8, 16, 16, 3), np.float32), np.ones((8, 16, 16), np.int32)
    new_image, new_labels = map(np.array, CROP(key, image, labels, crop=(24, 16), scale=(1.0, 1.0), aspect=0.0))
    np.testing.assert_array_equal((new_labels == 255).sum((1, 2)), np.full(8, 8 * 16))
    np.testing.assert_array_equal(new_image[..., 0] == 0, new_labels == 255)


def resample_slowly(image, labels, rows, columns):
    """Resample one sample by loops: a triangle of shares around each position."""

    def shares(position, step, size):
        reach = max(step, 1.0)
        found = {n: 1 - abs(n - position) / reach for n in range(size) if abs(n - position) < reach}
        return {n: share / sum(found.values()) for n, share in found.items()}

    height, width = labels.shape
    new_image, new_labels = np.zeros((len(rows), len(columns), 3)), np.full((len(rows), len(columns)), 255)
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            if -0.5 <= y < height - 0.5 and -0.5 <= x < width - 0.5:
                new_labels[i, j] = labels[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]
                for row, row_share in shares(y, rows[1] - rows[0], height).items():
                    for column, share in shares(x, columns[1] - columns[0], width).items():
                        new_image[i, j] += row_share * share * image[row, column]
    return new_image, new_labels


@pytest.mark.parametrize("step", [0.4, 1.0, 1.7])
def test_resampling_against_loops(step):
    image, labels = random_batch(batch=1, size=(9, 11))
    rows, columns = -1.3 + step * np.arange(9), 0.6 + step * np.arange(8)
    as_batch = [p.astype(np.float32)[None] for p in (rows, columns)]
    new_image, new_labels = map(np.array, RESAMPLE(image, labels, *as_batch))
    expected_image, expected_labels = resample_slowly(image[0], labels[0], rows, columns)
    np.testing.assert_allclose(new_image[0], expected_image, atol=1e-5)
    np.testing.assert_array_equal(new_labels[0], expected_labels)


def test_shrinking_agrees_with_pillow():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    rows, columns = (((np.arange(n) + 0.5) * 2.5 - 0.5).astype(np.float32)[None] for n in (16, 24))
    ours = np.array(RESAMPLE(image.astype(np.float32)[None], np.zeros((1, 40, 60), np.int32), rows, columns)[0])
    pillow = np.asarray(Image.fromarray(image).resize((24, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(ours[0], pillow, atol=1.01)  # Pillow rounds after each axis


def test_constant_stays_constant_under_resampling(key):
    image, labels = np.full((4, 24, 24, 3), 0.3, np.float32), np.zeros((4, 24, 24), np.int32)
    image, labels = CROP(key, image, labels, crop=(16, 16), scale=(0.7, 3.0), aspect=0.3)
    inside = np.array(labels) == 0
    assert inside.mean() > 0.5
    np.testing.assert_allclose(np.array(image)[inside], 0.3, atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_by_quarters_is_numpys(quarters):
    image, labels = random_batch(batch=1)
    angle = np.array([quarters * np.pi / 2], np.float32)
    turned, turned_labels = map(np.array, TURN(image, labels, angle))
    np.testing.assert_allclose(turned[0], np.rot90(image[0], quarters), atol=1e-4)
    np.testing.assert_array_equal(turned_labels[0], np.rot90(labels[0], quarters))


def test_copy_paste_pastes_half_of_the_neighbours_classes_whole(key):
    image, labels = random_batch()
    labels[labels == 4] = 255
    labels[0] = 2
    new_image, new_labels = map(np.array, PASTE(key, image, labels, probability=1.0))
    for i in range(len(labels)):
        other = labels[i - 1]
        pasted = np.all(new_image[i] == image[i - 1], axis=-1)
        present = [k for k in np.unique(other) if k != 255]
        chosen = [k for k in present if pasted[other == k].all()]
        assert len(chosen) == len(present) // 2
        np.testing.assert_array_equal(pasted, np.isin(other, chosen))
        np.testing.assert_array_equal(new_labels[i], np.where(pasted, other, labels[i]))
        np.testing.assert_array_equal(new_image[i][~pasted], image[i][~pasted])


def grey(image):
    return image @ np.array([0.299, 0.587, 0.114])


def test_each_colour_change_keeps_what_it_should(key):
    image = np.float32(0.3) + np.float32(0.4) * random_batch()[0]  # far from 0 and 1: nothing is clipped
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}

    def changed(**setting):
        return np.array(JITTER(key, image, **(off | setting)))

    factor = changed(brightness=0.2) / image
    assert np.ptp(factor, axis=(1, 2, 3)).max() < 1e-5 and np.ptp(factor) > 0.1
    assert factor.min() >= 0.8 and factor.max() <= 1.2
    contrast = changed(contrast=0.2)
    np.testing.assert_allclose(grey(contrast).mean((1, 2)), grey(image).mean((1, 2)), atol=1e-5)
    assert np.ptp(contrast.std((1, 2)) / image.std((1, 2)), axis=0).min() > 0.1
    saturation = changed(saturation=0.2)
    np.testing.assert_allclose(grey(saturation), grey(image), atol=1e-5)
    assert np.abs(saturation - image).max() > 0.01
    hue = changed(hue=0.1)
    np.testing.assert_allclose(hue.sum(-1), image.sum(-1), atol=1e-5)
    assert np.abs(hue - image).max() > 0.01


def test_hue_turns_in_a_circle():
    turn = jax.jit(hue_turn)
    np.testing.assert_allclose(turn(1.0), np.eye(3), atol=1e-6)
    red, green = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    np.testing.assert_allclose(np.asarray(turn(1 / 3)) @ red, green, atol=1e-6)


def test_colours_stay_in_range(key):
    image, _ = random_batch()
    bright = JITTER(key, image, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    noisy = NOISE(key, image, largest_std=1.0)
    for changed in map(np.array, (bright, noisy)):
        assert changed.min() >= 0 and changed.max() <= 1


def test_blur_smooths_and_keeps_a_constant(key):
    image, _ = random_batch()
    blurred = np.array(BLUR(key, image, probability=1.0))
    assert np.all(blurred.std((1, 2)) < 0.8 * image.std((1, 2)))
    np.testing.assert_allclose(BLUR(key, np.full_like(image, 0.7), probability=1.0), 0.7, atol=1e-6)
    some = np.array(BLUR(key, image, probability=0.5))
    unchanged = [bool(np.array_equal(a, b)) for a, b in zip(some, image, strict=True)]
    assert 8 < sum(unchanged) < 24


def test_noise_has_the_standard_deviation_it_says(key):
    noise = np.array(NOISE(key, np.full((32, 16, 16, 3), 0.5, np.float32), largest_std=0.1)) - 0.5
    deviation = noise.std((1, 2, 3))
    assert deviation.max() < 0.11 and deviation.min() < 0.02
    assert abs(deviation.mean() - 0.05) < 0.015


def test_wrong_shapes_and_types_are_refused(key):
    image, labels = blocks()
    run = make_augment(config())
    for bad in [(image[..., :2], labels), (image, labels[:, :-1]), (image / 255, labels), (image, labels / 2)]:
        with pytest.raises(AssertionError):
            run(key, *bad)
