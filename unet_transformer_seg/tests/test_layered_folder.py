"""Masks of overlapping classes: a file for each class, a file of layers, and a single class."""

import dataclasses

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg.config import Config, DataConfig, ModelConfig
from seg.data import build_dataset
from seg.data.fingerprint import take_fingerprint
from seg.data.inspection import find_warnings, inspect_split
from seg.errors import UserError
from seg.training.setup import build_setup

NAMES = ("road", "car", "rain")
SHAPE = (9, 12)


def make_labels(seed=0, k=3):
    return (np.random.default_rng(seed).random((*SHAPE, k)) < 0.4).astype(np.uint8)


def config_for(root, names=NAMES, **settings):
    return DataConfig(dataset="image_folder", root=str(root), size=(16, 16), class_names=names, **settings)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        is_bands = array.ndim == 3 and array.shape[2] == 3
        tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig" if is_bands else None)
    else:
        Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    """Return a data set with two images and no masks yet."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            write(tmp_path / split / "images" / f"{name}.png", np.full((*SHAPE, 3), 100, np.uint8))
    return tmp_path


def read(config, split="train", index=0, labels="overlapping"):
    return build_dataset(config, split, labels=labels)[index].mask


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"masks_dir": "labels/{class}"}, "labels/{0}/{1}.png"),
        ({"mask_suffix": "_{class}"}, "labels/{1}_{0}.png"),
        ({"masks_dir": "images", "mask_suffix": "_attribute_{class}"}, "images/{1}_attribute_{0}.png"),
    ],
)
def test_each_class_has_a_file_in_a_folder_or_with_a_suffix(root, settings, place):
    masks = {name: make_labels(seed) for seed, name in enumerate("ab")}
    for name, mask in masks.items():
        for k, label in enumerate(NAMES):
            write(root / "train" / place.format(label, name), mask[..., k] * np.uint8(255 if k else 1))
    dataset = build_dataset(config_for(root, **settings), "train", labels="overlapping")
    assert dataset.classes.names == NAMES and dataset.classes.overlapping and len(dataset) == 2
    for index, name in enumerate("ab"):
        np.testing.assert_array_equal(dataset[index].mask, masks[name])
    counts_k, pixels_k = dataset.count_pixels()
    np.testing.assert_array_equal(counts_k, sum(masks.values()).sum((0, 1)))
    np.testing.assert_array_equal(pixels_k, [2 * 9 * 12] * 3)


def test_a_class_without_a_file_is_nowhere_and_an_image_without_any_is_refused(root):
    mask = make_labels()
    for k in (0, 2):
        write(root / "train" / "labels" / NAMES[k] / "a.png", mask[..., k])
    (root / "train" / "labels" / "car").mkdir()
    config = config_for(root, masks_dir="labels/{class}")
    with pytest.raises(UserError, match=r"b.png: no mask of any class, such as .*labels/road/b"):
        read(config)
    write(root / "train" / "labels" / "rain" / "b.png", mask[..., 2])
    np.testing.assert_array_equal(read(config), mask * np.uint8([1, 0, 1]))
    report = inspect_split(config, "train", 0, lambda items, **_: items, "overlapping")
    assert "1 images have no mask of road, so it is not in them" in report.notes
    assert any("no image has a mask of car" in line for line in find_warnings({"train": report}))
    assert report.pixels_k.tolist() == [mask[..., 0].sum(), 0, 2 * mask[..., 2].sum()]
    assert not report.problems and report.labelled_k.tolist() == [216] * 3


def test_a_change_of_any_mask_file_is_noticed(root):
    for k, label in enumerate(NAMES):
        for name in "ab":
            write(root / "train" / "labels" / label / f"{name}.png", make_labels()[..., k])
    dataset = build_dataset(config_for(root, masks_dir="labels/{class}"), "train", labels="overlapping")
    before = take_fingerprint(dataset)
    write(root / "train" / "labels" / "rain" / "b.png", make_labels(5)[..., 0])
    assert take_fingerprint(dataset) != before


@pytest.mark.parametrize(
    ("name", "arrange"),
    [
        ("a.tif", lambda mask: np.moveaxis(mask, -1, 0)),  # pages
        ("a.tif", lambda mask: mask * np.uint8(255)),  # bands
        ("a.npy", lambda mask: mask),
        ("a.npy", lambda mask: np.moveaxis(mask, -1, 0).astype(bool)),
        ("a.png", lambda mask: mask * np.uint8(255)),
    ],
    ids=["pages", "bands", "last", "first", "picture"],
)
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_file_may_hold_a_layer_for_each_class(root, name, arrange, is_empty):
    mask = make_labels() * np.uint8(not is_empty)
    (root / "train" / "images" / "b.png").unlink()
    write(root / "train" / "labels" / name, arrange(mask))
    np.testing.assert_array_equal(read(config_for(root)), mask)


def test_ignored_pixels_are_those_of_the_stated_value_in_each_class(root):
    mask = make_labels() * np.uint8(200)
    mask[:3, :, 1] = 7
    for name in "ab":
        write(root / "train" / "labels" / f"{name}.npy", mask)
    labels = read(config_for(root, ignore_value=7))
    assert (labels[:3, :, 1] == 255).all() and set(np.unique(labels[..., 0])) == {0, 1}


def test_masks_that_say_something_else_are_refused_with_what_to_do(root):
    for name in "ab":
        write(root / "train" / "labels" / f"{name}.npy", make_labels(k=2))
    with pytest.raises(UserError, match=r"a.npy: 2 layers, expected one for each of 3 classes .*labels/\{class\}"):
        read(config_for(root))
    for label in NAMES:
        for name in "ab":
            write(root / "train" / "soft" / label / f"{name}.jpg", make_labels()[..., 0] * np.uint8(255))
    config = config_for(root, masks_dir="soft/{class}")
    with pytest.raises(UserError, match=r"a.jpg: lossy compression .* data.threshold: 128"):
        read(config)
    assert set(np.unique(read(dataclasses.replace(config, threshold=128)))) == {0, 1}
    with pytest.raises(UserError, match="no name of a folder"):
        read(config_for(root, ("a/b", "c"), masks_dir="labels/{class}"))


@pytest.mark.parametrize("inside", [1, 255])
def test_a_single_class_simply_works(root, inside):
    mask = make_labels(k=1)
    for split in ("train", "val"):
        for name in "ab":
            write(root / split / "labels" / f"{name}.png", mask[..., 0] * np.uint8(inside))
    data = config_for(root, ("car",))
    np.testing.assert_array_equal(read(data, labels="exclusive"), mask)
    model = ModelConfig(name="unet", base_width=4, depth=1, norm="group", norm_groups=2)
    setup = build_setup(Config(data=data, model=model))
    assert setup.config.model.num_classes == 1 and setup.config.model.labels == "overlapping"
    assert setup.classes.names == ("car",) and setup.labels.counts_shape[:2] == (1, 2)
