"""One range of values for all images of a run, and remarks that name files without flooding the terminal."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.config import Config, DataConfig, ModelConfig
from seg.config.schema import IMAGENET
from seg.data import build_dataset
from seg.data.images.remarks import Remarks
from seg.data.settlement import settle_images
from seg.record.changes import keep_decided
from seg.training.setup import build_setup


def write(root, split, values, suffix="tif"):
    for number, value in enumerate(values):
        for kind, array in (("images", np.full((8, 8), value)), ("labels", np.zeros((8, 8), np.uint8))):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
            path = root / split / kind / f"{number}.{suffix}"
            np.save(path, array) if suffix == "npy" else Image.fromarray(array).save(path)
    return DataConfig(dataset="image_folder", root=str(root), class_names=("a", "b"), size=(8, 8))


def test_a_dark_image_of_a_data_set_stays_dark(tmp_path, caplog):
    write(tmp_path, "train", np.array([100, 4000, 900], np.uint16))
    config = settle_images(write(tmp_path, "val", np.array([200], np.uint16)))
    assert config.value_range == (0, 4095)
    assert "3 of 3 training images reach 4000" in caplog.text and "data.value_range=[0,65535]" in caplog.text
    shown = [build_dataset(config, "train")[i].image.max() for i in range(3)]
    np.testing.assert_allclose(shown, np.array([100, 4000, 900]) / 4095, atol=1e-6)  # 12 bits, not the upper 8 of them
    np.testing.assert_allclose(build_dataset(config, "val")[0].image.max(), 200 / 4095, atol=1e-6)
    eight = dataclasses.replace(config, precision="uint8")  # as a run of an earlier version
    assert [build_dataset(eight, "train")[i].image.max() for i in range(3)] == [100 >> 4, 4000 >> 4, 900 >> 4]
    assert settle_images(config) == config


@pytest.mark.parametrize(
    ("values", "suffix", "precision"),
    [
        (np.array([9, 200], np.uint8), "png", "uint8"),
        (np.array([0.1, 0.9], np.float32), "tif", "float32"),
        (np.array([-5, 900], np.int16), "npy", "uint8"),  # refused when it is read
    ],
)
def test_other_images_settle_no_range(values, suffix, precision, tmp_path, caplog):
    config = settle_images(write(tmp_path, "train", values, suffix))
    assert config.value_range == (0, 0) and config.precision == precision and not caplog.text
    assert (config.mean, config.std) == IMAGENET


def test_full_16_bits_are_settled_too(tmp_path):
    """Or a dark image given to the model later would be taken for one of 12 bits."""
    assert settle_images(write(tmp_path, "train", np.array([100, 60_000], np.uint16))).value_range == (0, 65535)


def test_a_run_keeps_the_range(tmp_path):
    write(tmp_path, "train", np.array([100, 4000], np.uint16))
    data = write(tmp_path, "val", np.array([200], np.uint16))
    setup = build_setup(Config(data=data, model=ModelConfig(name="unet", base_width=8, depth=1)))
    assert setup.config.data.value_range == (0, 4095)
    np.testing.assert_allclose(setup.val_set[0].image.max(), 200 / 4095, atol=1e-6)


def test_a_run_of_an_earlier_version_goes_on_with_8_bits(tmp_path):
    """Its config has no precision; its network was trained on the upper 8 bits."""
    write(tmp_path, "train", np.array([100, 4000], np.uint16))
    data = write(tmp_path, "val", np.array([200], np.uint16))
    data = dataclasses.replace(data, value_range=(0, 4095), mean=IMAGENET[0], std=IMAGENET[1])
    config = Config(data=data, model=ModelConfig(name="unet", base_width=8, depth=1))
    setup = build_setup(config, is_settled=True)
    assert setup.config.data == data and setup.val_set[0].image.dtype == np.uint8
    assert keep_decided(config, Config(data=dataclasses.replace(data, mean=(), std=()))).data == data


def test_remarks_name_the_first_files_of_each_kind_once():
    lines = []
    remark = Remarks(lines.append, 2)
    for epoch in range(3):
        for name in "abcd":
            remark("transparency", Path(name), f"epoch {epoch}")
    remark("channels", Path("e\x1b"), "4")
    assert lines[:2] == ["warning: a: epoch 0", "warning: b: epoch 0"]
    assert "more files have a remark on their transparency" in lines[2]
    assert lines[3:] == ["warning: e\\x1b: 4"]
