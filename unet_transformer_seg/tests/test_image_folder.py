"""Folders of images and masks: layouts, values and colours, and a message for everything that does not fit."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from seg.classes import default_palette
from seg.config import DataConfig
from seg.data import build_dataset
from seg.data.image_folder import ImageFolder
from seg.data.masks.class_settings import build_label_map
from seg.errors import UserError

NAMES = ("sky", "road", "tree")
COLOURS = ((10, 20, 30), (200, 0, 0), (0, 200, 0))


def image_of(number):
    return np.full((6, 8, 3), number, np.uint8)


def write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))


def make_folder(root, split, stems, mask=None, images="images", masks="labels", suffix="png"):
    """Write one split; the image of the n-th stem is filled with n."""
    mask = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3 if mask is None else mask
    for number, stem in enumerate(stems):
        write_image(root / split / images / f"{stem}.{suffix}", image_of(number))
        write_image(root / split / masks / f"{stem}.png", mask)
    return mask


def config_for(root, **settings):
    return DataConfig(dataset="image_folder", root=str(root), class_names=NAMES, **settings)


def names_of(dataset):
    return [dataset[i].name for i in range(len(dataset))]


# Layouts


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif", "tiff", "PNG"])
def test_folders_per_split(suffix, tmp_path):
    mask = make_folder(tmp_path, "train", ["b", "a", "c.d"], suffix=suffix)
    (tmp_path / "train/images/.DS_Store").write_bytes(b"x")
    (tmp_path / "train/images/notes.md").write_text("x")
    dataset = build_dataset(config_for(tmp_path), "train")
    assert isinstance(dataset, ImageFolder)
    assert names_of(dataset) == ["train/a", "train/b", "train/c.d"]
    np.testing.assert_array_equal(dataset[0].image, image_of(1))
    np.testing.assert_array_equal(dataset[0].mask, mask)
    assert dataset[0].mask.dtype == np.uint8
    with pytest.raises(IndexError, match="3 samples"):
        dataset[3]


def test_a_list_restricts_and_orders_a_folder(tmp_path):
    make_folder(tmp_path, "train", ["a", "b", "c"])
    (tmp_path / "train.txt").write_text("# the good ones\nc\n\na.png\n")
    assert names_of(build_dataset(config_for(tmp_path), "train")) == ["train/c", "train/a"]


def test_one_folder_with_lists(tmp_path):
    make_folder(tmp_path, ".", ["a", "b", "c"], images="photos", masks="truth")
    (tmp_path / "train.txt").write_text("b\na\n")
    (tmp_path / "held_out.txt").write_text("c\n")
    config = config_for(tmp_path, images_dir="photos", masks_dir="truth", val_split="held_out")
    assert names_of(build_dataset(config, "train")) == ["b", "a"]
    assert names_of(build_dataset(config, "val")) == ["c"]


def test_a_list_of_pairs_joins_splits(tmp_path):
    make_folder(tmp_path, "train", ["a"])
    make_folder(tmp_path, "val", ["b b"])
    (tmp_path / "all.txt").write_text("train/images/a.png train/labels/a.png\nval/images/b b.png\tval/labels/b b.png\n")
    config = config_for(tmp_path, train_split="all.txt", val_split=str(tmp_path / "all.txt"))
    for split in ("train", "val"):
        assert names_of(build_dataset(config, split)) == ["train/images/a", "val/images/b b"]


def test_equal_stems_in_images_and_masks_may_have_other_suffixes(tmp_path):
    make_folder(tmp_path, "train", ["a"], suffix="jpg")
    assert len(build_dataset(config_for(tmp_path), "train")) == 1


# What is missing or ambiguous


def refusal(config, split="train"):
    with pytest.raises(UserError) as error:
        build_dataset(config, split)
    return str(error.value)


def test_a_missing_root_or_split_says_what_was_looked_for_and_what_is_there(tmp_path):
    assert "found no folder" in refusal(config_for(tmp_path / "nowhere"))
    make_folder(tmp_path, "training", ["a"])
    message = refusal(config_for(tmp_path))
    assert "'train'" in message and "train/images" in message and "train.txt" in message
    assert "training/" in message and "data.train_split" in message
    message = refusal(config_for(tmp_path, train_split="training", masks_dir="masks"))
    assert "training/masks" in message and "images/, labels/" in message
    assert "lost.txt" in refusal(config_for(tmp_path, train_split="lost.txt"))


def test_an_empty_folder_is_refused(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / "train" / name).mkdir(parents=True)
    assert "'train' is empty" in refusal(config_for(tmp_path))


def test_missing_masks_and_stems_that_occur_twice_are_named(tmp_path):
    make_folder(tmp_path, "train", ["a", "b"])
    (tmp_path / "train/labels/b.png").unlink()
    message = refusal(config_for(tmp_path))
    assert "images/b.png: no mask" in message and "labels/b.*" in message
    make_folder(tmp_path, "train", ["a", "b"])
    write_image(tmp_path / "train/images/a.jpg", image_of(0))
    assert "2 files of the stem 'a': a.jpg, a.png" in refusal(config_for(tmp_path))


def test_many_problems_are_counted(tmp_path):
    make_folder(tmp_path, "train", [f"s{i}" for i in range(9)])
    for i in range(8):
        (tmp_path / f"train/labels/s{i}.png").unlink()
    message = refusal(config_for(tmp_path))
    assert message.count("no mask") == 5 and "8 in all" in message and "seg.check" in message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a\nzz\n", "train.txt:2: no image"),
        ("a\nb\na\n", "train.txt:3: 'a' is already in line 1"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(lines, message, tmp_path):
    make_folder(tmp_path, "train", ["a", "b"])
    (tmp_path / "train.txt").write_text(lines)
    assert message in refusal(config_for(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train/images/a.png\n", "pairs.txt:1: expected an image and a mask path"),
        (b"\ntrain/images/a.png train/labels/none.png\n", "pairs.txt:2: no such file"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"# nothing\n", "is empty"),
    ],
)
def test_a_wrong_list_of_pairs_is_named(content, message, tmp_path):
    make_folder(tmp_path, "train", ["a"])
    (tmp_path / "pairs.txt").write_bytes(content)
    assert message in refusal(config_for(tmp_path, train_split="pairs.txt"))


def test_a_mask_of_another_size_is_named(tmp_path):
    make_folder(tmp_path, "train", ["a"], mask=np.zeros((6, 9), np.uint8))
    dataset = build_dataset(config_for(tmp_path), "train")
    with pytest.raises(UserError, match=r"labels/a.png: the mask has 6×9 .*images/a.png has 6×8"):
        dataset[0]


# Values and colours


def read_error(tmp_path, mask, **settings):
    make_folder(tmp_path, "train", ["a"], mask=mask)
    with pytest.raises(UserError) as error:
        build_dataset(config_for(tmp_path, **settings), "train")[0]
    return str(error.value)


def test_unknown_values_are_named_with_count_and_file(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[0], mask[1, :3] = 7, 9
    message = read_error(tmp_path, mask)
    assert "labels/a.png" in message and "7 (8 pixels), 9 (3 pixels)" in message and "expected 0…2" in message


def test_a_mask_of_0_and_255_suggests_the_value_map_which_then_works(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[2] = 255
    assert "data.value_map: {0: 0, 255: 1}" in read_error(tmp_path, mask)
    dataset = build_dataset(config_for(tmp_path, value_map={0: 0, 255: 1}), "train")
    np.testing.assert_array_equal(dataset[0].mask, mask // 255)


def test_an_ignored_value_is_suggested_and_read(tmp_path):
    mask = make_folder(tmp_path, "train", ["a"])
    mask[2] = 255
    assert "data.ignore_value: 255" in read_error(tmp_path, mask)
    for value in (255, 77):
        mask[2] = value
        make_folder(tmp_path, "train", ["a"], mask=mask)
        dataset = build_dataset(config_for(tmp_path, ignore_value=value), "train")
        np.testing.assert_array_equal(dataset[0].mask, np.where(mask == value, 255, mask))


def test_wide_values_go_through_the_map(tmp_path):
    mask = np.full((6, 8), 24_000, np.uint16)
    mask[0] = 300
    make_folder(tmp_path, "train", ["a"], mask=mask)
    dataset = build_dataset(config_for(tmp_path, value_map={24_000: 2, 300: 255}), "train")
    np.testing.assert_array_equal(dataset[0].mask, np.where(mask == 300, 255, 2))


def test_rgb_masks_are_read_through_the_palette(tmp_path):
    labels = np.arange(48).reshape(6, 8) % 3
    colours = np.array(COLOURS, np.uint8)[labels]
    assert "data.palette" in read_error(tmp_path, colours)
    dataset = build_dataset(config_for(tmp_path, palette=COLOURS), "train")
    np.testing.assert_array_equal(dataset[0].mask, labels)
    assert dataset.classes.palette == COLOURS
    colours[0, 0] = (1, 2, 3)
    message = read_error(tmp_path, colours, palette=COLOURS)
    assert "(1, 2, 3) (1 pixels)" in message and "(200, 0, 0)" in message


def test_a_photo_as_mask_is_recognised(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
    assert "saved as JPEG" in read_error(tmp_path, photo)


# classes.json


def write_classes(root, **content):
    (root / "classes.json").write_text(json.dumps(content))
    return DataConfig(dataset="image_folder", root=str(root))


def test_a_class_to_ignore_is_dropped_and_later_ones_move_up(tmp_path):
    colours = [*COLOURS, (9, 9, 9)]
    config = write_classes(tmp_path, names=["sky", "void", "road", "tree"], colours=colours, ignore=1)
    make_folder(tmp_path, "train", ["a"], mask=np.arange(48, dtype=np.uint8).reshape(6, 8) % 4)
    dataset = build_dataset(config, "train")
    assert dataset.classes.names == ("sky", "road", "tree")
    assert dataset.classes.palette == (COLOURS[0], COLOURS[2], (9, 9, 9))
    np.testing.assert_array_equal(dataset[0].mask, np.array([0, 255, 1, 2])[np.arange(48).reshape(6, 8) % 4])
    make_folder(tmp_path, "train", ["a"], mask=np.array(colours, np.uint8)[np.arange(48).reshape(6, 8) % 4])
    np.testing.assert_array_equal(dataset[0].mask, np.array([0, 255, 1, 2])[np.arange(48).reshape(6, 8) % 4])


def test_our_own_form_and_the_precedence_of_the_config(tmp_path):
    config = write_classes(tmp_path, names=NAMES, palette=COLOURS, ignore=200)
    label_map = build_label_map(config)
    assert label_map.classes.names == NAMES and label_map.classes.palette == COLOURS
    assert label_map.by_value == {0: 0, 1: 1, 2: 2, 200: 255}
    named = build_label_map(dataclasses.replace(config, class_names=("x", "y"), ignore_value=5))
    assert named.classes.names == ("x", "y") and named.classes.palette == default_palette(2)
    assert named.by_value == {0: 0, 1: 1, 5: 255} and named.by_colour == {}
    mapped = build_label_map(dataclasses.replace(config, value_map={7: 2, 8: 255}, ignore_value=1))
    assert mapped.by_value == {7: 2, 8: 255, 1: 255} and mapped.classes.names == NAMES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_map": {0: 0, 1: 3}}, "value_map"),
        ({"value_map": {-1: 0}}, "mask values are 0…65535"),
        ({"value_map": {0: 0, 9: 1}, "ignore_value": 9}, "maps 9"),
        ({"palette": COLOURS[:2]}, "one colour for each of 3 classes"),
    ],
)
def test_contradictions_are_refused(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build_label_map(config_for(tmp_path, **settings))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"names": "sky"}', '{"names": [1, 2]}', '{"names": ["a"]}', "{" * 100_000, "\xff"]
    + ['{"names": ["a", "b"], "ignore": "x"}', '{"names": ["a", "b"], "palette": [1, 2]}']
    + ['{"names": ["a", "b"], "ignore": 70000}', '{"names": ["a", "b"], "palette": [[0, 0, 300], [0, 0, 0]]}'],
)
def test_a_broken_classes_file_is_named(content, tmp_path):
    (tmp_path / "classes.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError):
        build_label_map(DataConfig(dataset="image_folder", root=str(tmp_path)))


def test_no_names_anywhere(tmp_path):
    with pytest.raises(UserError, match="data.class_names"):
        build_label_map(DataConfig(dataset="image_folder", root=str(tmp_path)))


def test_counted_pixels(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[0], mask[1] = 1, 255
    make_folder(tmp_path, "train", ["a", "b"], mask=mask)
    write_image(tmp_path / "train/labels/b.png", np.zeros((6, 8), np.uint8))
    counts, pixels = build_dataset(config_for(tmp_path, ignore_value=255), "train").count_pixels()
    np.testing.assert_array_equal(counts, [32 + 48, 8, 0])
    np.testing.assert_array_equal(pixels, [40 + 48, 40, 0])
