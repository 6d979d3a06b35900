"""How masks of every kind become labels: by values, greys or stated colours, and what is refused."""

import dataclasses
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mask_folders import config_for, drawn, follow, suggested, with_palette, write_masks
from seg.classes import load_class_table
from seg.data import build_dataset
from seg.data.image_file import read_mask
from seg.data.masks.class_settings import build_label_map, mask_values, notes_on_classes
from seg.data.masks.mask import mask_of_array
from seg.errors import UserError

LABELS = np.zeros((8, 10), np.uint8)
LABELS[2:5, 3:7], LABELS[6, 2:8] = 1, 2
TWO = np.minimum(LABELS, 1)
BLACK, RED, GREEN, WHITE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (255, 255, 255)
THREE_NAMES = ("background", "car", "tree")


def read(tmp_path, mask, names=THREE_NAMES, **settings):
    write_masks(tmp_path, a=mask)
    return build_dataset(config_for(tmp_path, names, **settings), "train")[0].mask


def refusal(tmp_path, mask, names=THREE_NAMES, **settings):
    with pytest.raises(UserError) as error:
        read(tmp_path, mask, names, **settings)
    return str(error.value)


# Colours and palettes


def test_stated_colours_decide_for_a_palette_in_any_order(tmp_path):
    mask = with_palette(drawn(LABELS, 1, 2, 0), GREEN, BLACK, RED)
    np.testing.assert_array_equal(read(tmp_path, mask, palette=(BLACK, RED, GREEN)), LABELS)
    by_position = read(tmp_path, mask, palette=(BLACK, RED, GREEN), read_masks_by="value")
    np.testing.assert_array_equal(by_position, drawn(LABELS, 1, 2, 0))
    np.testing.assert_array_equal(read(tmp_path, mask), drawn(LABELS, 1, 2, 0))


def test_a_palette_of_other_colours_is_named_and_its_positions_can_be_asked_for(tmp_path):
    mask = with_palette(LABELS, BLACK, (1, 2, 3), (4, 5, 6))
    settings = {"palette": (BLACK, RED, GREEN)}
    message = refusal(tmp_path, mask, **settings)
    assert "labels/a.png" in message and "(1, 2, 3) (12 pixels)" in message
    config = follow(config_for(tmp_path, THREE_NAMES, **settings), ["data.read_masks_by=value"])
    assert ["data.read_masks_by=value"] in suggested(message)
    np.testing.assert_array_equal(build_dataset(config, "train")[0].mask, LABELS)


def test_an_ignored_position_needs_no_stated_colour(tmp_path):
    mask = with_palette(drawn(LABELS, 0, 1, 3), BLACK, RED, GREEN, (224, 224, 192))
    labels = read(tmp_path, mask, palette=(BLACK, RED, GREEN), ignore_value=3)
    np.testing.assert_array_equal(labels, drawn(LABELS, 0, 1, 255))


def test_grey_stored_as_colours_is_grey(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, np.repeat(LABELS[..., None], 3, axis=2)), LABELS)
    as_colours = drawn(TWO, (0, 0, 0), (255, 255, 255))
    np.testing.assert_array_equal(read(tmp_path, as_colours, ("a", "b"), value_map={0: 0, 255: 1}), TWO)
    grey_palette = with_palette(TWO, BLACK, WHITE)
    np.testing.assert_array_equal(read(tmp_path, grey_palette, ("a", "b"), value_map={0: 0, 255: 1}), TWO)
    ramp = with_palette(LABELS, *((v, v, v) for v in range(256)))
    np.testing.assert_array_equal(read(tmp_path, ramp, palette=(RED, GREEN, BLACK)), LABELS)


def test_grey_masks_are_read_by_stated_grey_colours(tmp_path):
    greys = ((0, 0, 0), (128, 128, 128), (255, 255, 255))
    np.testing.assert_array_equal(read(tmp_path, drawn(LABELS, 0, 128, 255), palette=greys), LABELS)
    np.testing.assert_array_equal(read(tmp_path, LABELS, palette=greys), LABELS)


@pytest.mark.parametrize("mask", [np.zeros((8, 10), np.uint8), np.zeros((8, 10), bool)])
def test_a_mask_whose_value_and_colour_are_different_classes_is_refused(mask, tmp_path):
    settings = {"palette": (WHITE, BLACK)}
    message = refusal(tmp_path, mask, ("paper", "ink"), **settings)
    assert "labels/a.png: its value 0 means paper" in message and "means ink" in message
    labels = [
        build_dataset(follow(config_for(tmp_path, ("paper", "ink"), **settings), overrides), "train")[0].mask.max()
        for overrides in suggested(message)
    ]
    assert labels == [0, 1]


@pytest.mark.parametrize("alpha", [255, 7])
def test_transparency_that_says_nothing_is_left_out(alpha, tmp_path):
    colours = drawn(LABELS, BLACK, RED, GREEN)
    everywhere = np.full((8, 10, 1), alpha, np.uint8)
    labels = read(tmp_path, np.concatenate([colours, everywhere], axis=2), palette=(BLACK, RED, GREEN))
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(read(tmp_path, np.concatenate([LABELS[..., None], everywhere], axis=2)), LABELS)
    of_background = np.where(LABELS == 0, 0, 255).astype(np.uint8)[..., None]
    labels = read(tmp_path, np.concatenate([colours, of_background], axis=2), palette=(BLACK, RED, GREEN))
    np.testing.assert_array_equal(labels, LABELS)


def test_transparency_that_holds_the_shape_is_refused(tmp_path):
    shape = np.where(LABELS == 0, 0, 255).astype(np.uint8)
    message = refusal(tmp_path, np.stack([np.full_like(shape, 255)] * 3 + [shape], axis=2))
    assert "labels/a.png" in message and "transparency (alpha 0 to 255)" in message


# One bit, many bits, arrays


def test_one_bit_is_0_and_1_or_else_0_and_255(tmp_path):
    bits = Image.fromarray(TWO == 1)
    assert bits.mode == "1"
    names = ("background", "car")
    np.testing.assert_array_equal(read(tmp_path, bits, names), TWO)
    np.testing.assert_array_equal(read(tmp_path, bits, names, value_map={0: 0, 255: 1}), TWO)
    np.testing.assert_array_equal(read(tmp_path, bits, names, ignore_value=255), TWO)
    np.testing.assert_array_equal(read(tmp_path, bits, names, palette=(BLACK, WHITE)), TWO)
    inverted = Image.fromarray(TWO == 0)
    np.testing.assert_array_equal(read(tmp_path, inverted, names, value_map={255: 0, 0: 1}), TWO)
    white_is_zero = (bits, "tif", {"tiffinfo": {262: 0}})
    np.testing.assert_array_equal(read(tmp_path / "tif", white_is_zero, names), TWO)


def test_values_of_16_bits(tmp_path):
    settings = {"value_map": {0: 0, 65535: 1, 700: 255}}
    labels = read(tmp_path, drawn(LABELS, 0, 65535, 700), ("background", "car"), **settings)
    np.testing.assert_array_equal(labels, drawn(LABELS, 0, 1, 255))
    config = follow(config_for(tmp_path), ["data.ignore_value=65535"])
    assert build_label_map(config).by_value == {0: 0, 1: 1, 65535: 255}


def write_png16(path, array, colour_type):
    """Write uint16[h, w, c] as a PNG of 16 bits a channel, which Pillow cannot write."""
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_channels_of_16_bits_keep_their_lower_bits(tmp_path):
    path = tmp_path / "m.png"
    write_png16(path, np.repeat(LABELS[..., None].astype(np.uint16), 3, axis=2), 2)
    np.testing.assert_array_equal(read_mask(path).values, LABELS)
    write_png16(path, np.stack([LABELS.astype(np.uint16) * 300, np.full((8, 10), 65535)], axis=2), 4)
    np.testing.assert_array_equal(read_mask(path).values, LABELS.astype(np.uint16) * 300)
    colours = drawn(LABELS, BLACK, RED, GREEN)
    write_png16(path, colours.astype(np.uint16) * 257, 2)
    np.testing.assert_array_equal(read_mask(path).values, colours)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_whole_numbers_of_32_bits_are_values(dtype, tmp_path):
    np.testing.assert_array_equal(read(tmp_path, (Image.fromarray(LABELS.astype(dtype)), "tif", {})), LABELS)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint32, np.float16, np.float64])
def test_arrays_of_whole_numbers_are_values(dtype, tmp_path):
    mask = mask_of_array(TWO.astype(dtype)[..., None])
    np.testing.assert_array_equal(mask.values, TWO)
    assert mask.values.dtype == np.uint8 and mask.depth == (1 if dtype is bool else 8)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[0, 0.5]]), "integers, found 0.5"),
        (np.array([[0, -1]]), "found -1 to 0.*data.ignore_value"),
        (np.array([[0, np.nan]]), "found NaN or infinity in 1 of 2"),
        (np.array([[0, 70_000]]), "found 0 to 70000"),
        (np.zeros((2, 3, 4)), "found 2×3×4"),
        (np.zeros((2, 3), complex), "complex"),
        (np.arange(6, dtype=np.uint16).reshape(1, 2, 3) * 100, "colours of 0 to 255, found up to 500"),
    ],
)
def test_arrays_that_are_no_masks_are_named(array, message, tmp_path):
    np.save(tmp_path / "m.npy", array)
    with pytest.raises(UserError, match=f"m.npy: .*{message}"):
        read_mask(tmp_path / "m.npy")


def test_a_threshold_makes_two_classes(tmp_path):
    names, soft = ("background", "car"), drawn(LABELS, 3, 250, 130)
    np.testing.assert_array_equal(read(tmp_path, soft, names, threshold=128), drawn(LABELS, 0, 1, 1))
    ignored = read(tmp_path, soft, names, threshold=128, ignore_value=130)
    np.testing.assert_array_equal(ignored, drawn(LABELS, 0, 1, 255))
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(TWO == 1), names, threshold=128), TWO)


# Settings


@pytest.mark.parametrize("name", ["car", "background"])
def test_one_class_gets_a_second(name, tmp_path):
    with pytest.raises(UserError) as error:
        build_label_map(config_for(tmp_path, [name]))
    assert "classes.json" not in str(error.value)
    (overrides,) = suggested(str(error.value))
    names = build_label_map(follow(config_for(tmp_path, [name]), overrides)).classes.names
    assert names == ("background", "car" if name == "car" else "object")


def test_more_classes_than_labels(tmp_path):
    with pytest.raises(UserError, match="data.class_names: expected 2 to 255 classes, found 256"):
        build_label_map(config_for(tmp_path, [f"c{i}" for i in range(256)]))


def test_a_class_lost_to_the_ignored_value_is_said(tmp_path):
    config = config_for(tmp_path, THREE_NAMES, ignore_value=0)
    (note,) = notes_on_classes(config, build_label_map(config))
    assert "background, which is left out" in note and "car, tree" in note
    write_masks(tmp_path, a=LABELS)
    assert build_dataset(config, "train").notes == [note]
    kept = follow(config, suggested(note)[0])
    label_map = build_label_map(kept)
    assert label_map.classes.names == THREE_NAMES and not notes_on_classes(kept, label_map)


def test_the_last_class_lost_to_the_ignored_value_is_refused(tmp_path):
    with pytest.raises(UserError) as error:
        build_label_map(config_for(tmp_path, ignore_value=0))
    keep, behind = suggested(str(error.value))
    assert build_label_map(follow(config_for(tmp_path, ignore_value=0), keep)).by_value == {0: 0, 1: 1}
    assert build_label_map(follow(config_for(tmp_path, ignore_value=0), behind)).by_value == {1: 0, 2: 1, 0: 255}


def test_a_mapped_value_that_is_ignored_is_refused_with_both_remedies(tmp_path):
    config = config_for(tmp_path, value_map={0: 0, 9: 1}, ignore_value=9)
    with pytest.raises(UserError) as error:
        build_label_map(config)
    maps = [build_label_map(follow(config, overrides)).by_value for overrides in suggested(str(error.value))]
    assert maps == [{0: 0, 9: 255}, {0: 0, 9: 1}]


def test_classes_that_no_value_stands_for_are_said(tmp_path):
    config = config_for(tmp_path, THREE_NAMES, value_map={0: 0, 255: 2})
    (note,) = notes_on_classes(config, build_label_map(config))
    assert "maps to car" in note
    coloured = dataclasses.replace(config, palette=(BLACK, RED, GREEN))
    assert not notes_on_classes(coloured, build_label_map(coloured))


def test_classes_of_one_colour_are_said_and_not_read_by_it(tmp_path):
    config = config_for(tmp_path, THREE_NAMES, palette=(BLACK, RED, RED))
    (note,) = notes_on_classes(config, build_label_map(config))
    assert "car, tree have the same colour" in note
    with pytest.raises(UserError, match="colour of its own"):
        build_label_map(dataclasses.replace(config, read_masks_by="colour"))


@pytest.mark.parametrize(
    "settings", [{"threshold": 5, "value_map": {0: 0, 255: 1}}, {"threshold": 5, "class_names": THREE_NAMES}]
)
def test_a_threshold_goes_with_two_classes_and_no_map(settings, tmp_path):
    config = dataclasses.replace(config_for(tmp_path), **settings)
    with pytest.raises(UserError) as error:
        build_label_map(config)
    for overrides in suggested(str(error.value)):
        build_label_map(follow(config, overrides))


# The way back


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({}, ()),
        ({"value_map": {0: 0, 255: 1}}, (0, 255)),
        ({"value_map": {7: 1, 0: 0, 1: 1, 3: 255}}, (0, 7)),
        ({"value_map": {5: 1}}, (0, 5)),
        ({"value_map": {0: 1}}, (1, 0)),
        ({"threshold": 128}, (0, 255)),
        ({"threshold": 32768}, (0, 65535)),
        ({"palette": (BLACK, RED)}, (BLACK, RED)),
        ({"palette": (BLACK, RED), "read_masks_by": "value"}, ()),
        ({"palette": (BLACK, RED), "value_map": {1: 0, 2: 1}}, (1, 2)),
    ],
)
def test_what_stands_for_each_class(settings, values, tmp_path):
    assert mask_values(config_for(tmp_path, **settings), 2) == values
    classes = build_label_map(config_for(tmp_path, **settings)).classes
    assert classes.mask_values == values
    classes.save(tmp_path / "table.json")
    assert load_class_table(tmp_path / "table.json") == classes


def test_positions_behind_a_class_that_is_left_out(tmp_path):
    assert build_label_map(config_for(tmp_path, THREE_NAMES, ignore_value=1)).classes.mask_values == (0, 2)
