"""Black and white by percentiles of the training split, and images normalised one by one."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from seg.check import describe_images
from seg.config import Config, DataConfig
from seg.config.rules import check_config
from seg.data import build_dataset
from seg.data.image_file import read_image
from seg.data.inspection import find_warnings, inspect_split
from seg.data.settlement import settle_images
from seg.data.transforms import make_augment
from seg.errors import UserError


def write(root, split, images, suffix="npy"):
    for number, image in enumerate(images):
        for kind, array in (("images", image), ("labels", np.zeros(image.shape[:2], np.uint8))):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
            path = root / split / kind / f"{number}.{suffix}"
            np.save(path, array) if suffix == "npy" else Image.fromarray(array).save(path)
    channels = 1 if images[0].ndim == 2 else images[0].shape[2]
    return DataConfig(dataset="image_folder", root=str(root), class_names=("a", "b"), size=(8, 8), channels=channels)


@pytest.fixture
def bands():
    rng = np.random.default_rng(0)
    return [rng.normal([-3, 400], [1, 50], (30, 20, 2)).astype(np.float32) for _ in range(3)]


def test_percentiles_are_taken_once_over_the_training_split(tmp_path, bands):
    """Values that no rule covers: negative, and beyond 65535 or not; each channel has its own range."""
    write(tmp_path, "val", [bands[0] * 100])
    data = dataclasses.replace(write(tmp_path, "train", bands), range="percentiles", percentiles=(5, 90))
    settled = settle_images(data)
    pixels = np.concatenate([band.reshape(-1, 2) for band in bands])
    np.testing.assert_allclose(settled.channel_ranges, np.percentile(pixels, (5, 90), axis=0).T, rtol=1e-5)
    assert settled.precision == "float32" and settle_images(settled) == settled
    image = build_dataset(settled, "train")[0].image
    low, high = np.array(settled.channel_ranges).T
    np.testing.assert_allclose(image, np.clip((bands[0] - low) / (high - low), 0, 1), atol=1e-5)
    assert build_dataset(settled, "val")[0].image.max() == 1  # by the range of the training split
    assert "[-4.6" in describe_images(settled)


def test_grey_in_three_channels_has_one_range(tmp_path):
    grey = np.random.default_rng(0).integers(100, 900, (20, 20), np.uint16)
    data = dataclasses.replace(write(tmp_path, "train", [grey], "png"), channels=3, range="percentiles")
    write(tmp_path, "val", [grey], "png")
    image = build_dataset(settle_images(data), "train")[0].image
    assert image.shape == (20, 20, 3) and (image == image[..., :1]).all() and (image.min(), image.max()) == (0, 1)


def test_each_image_to_mean_0_and_deviation_1(tmp_path, bands):
    data = dataclasses.replace(write(tmp_path, "train", bands), normalise="image", fit="crop")
    settled = settle_images(data)
    assert (settled.precision, settled.mean, settled.std) == ("float32", (0, 0), (1, 1))
    image = build_dataset(settled, "train")[0].image
    np.testing.assert_allclose(image.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(image.std((0, 1)), 1, atol=1e-5)
    # Nothing is clipped to 0 … 1 on the device.
    noisy = dataclasses.replace(
        settled, augment=dataclasses.replace(settled.augment, noise=0.1, contrast=0.1), size=(30, 20)
    )
    augmented, _ = jax.jit(make_augment(noisy))(jax.random.key(0), image[None], np.zeros((1, 30, 20), np.uint8))
    assert augmented.min() < -1.5 and augmented.max() > 1.5


def test_a_stated_range_clips_before_an_image_is_normalised(tmp_path):
    values = np.array([[-1000, -100, 100, 3000]], np.int16)
    np.save(tmp_path / "ct.npy", values)
    config = DataConfig(channels=1, precision="float32", normalise="image", value_range=(-160, 240))
    image = read_image(tmp_path / "ct.npy", config)[..., 0]
    clipped = np.array([[-160, -100, 100, 240]])
    np.testing.assert_allclose(image, (clipped - clipped.mean()) / clipped.std(), atol=1e-5)


def test_a_constant_channel_is_zero(tmp_path):
    np.save(tmp_path / "a.npy", np.full((4, 4), 7, np.uint16))
    assert not read_image(tmp_path / "a.npy", DataConfig(channels=1, precision="float32", normalise="image")).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"range": "percentiles", "value_range": (0, 9)}, "data.range: percentiles and data.value_range"),
        ({"percentiles": (99, 1)}, "data.percentiles"),
        ({"channel_ranges": ((0, 1),) * 3}, "data.channel_ranges"),
        ({"range": "percentiles", "channel_ranges": ((0, 1),)}, "data.channel_ranges: .* data.channels = 3"),
        ({"range": "percentiles", "channel_ranges": ((1, 0),) * 3}, "black below white"),
        ({"mean": (0.5,)}, "data.mean: .* data.channels = 3"),
        ({"shown_channels": (0, 3, 1)}, "data.shown_channels: .* 0 to 2"),
    ],
)
def test_contradictory_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_config(Config(data=DataConfig(dataset="custom", **settings)))


def test_check_warns_of_dark_images_and_shows_the_values(tmp_path):
    dark = np.full((8, 8), 900, np.uint16)
    data = settle_images(dataclasses.replace(write(tmp_path, "train", [dark, dark + 1]), value_range=(0, 65535)))
    report = inspect_split(data, "train", 0, lambda items, **_: items)
    warnings = find_warnings({"train": report})
    assert any("the images are dark: no value is above 1.37% of white" in line for line in warnings)
    assert describe_images(data) == "images: 1 channel in float32; 0 is black, 65535 is white"
