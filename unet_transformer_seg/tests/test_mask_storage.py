"""Masks are read by what they hold, however they are stored: few bits, signs, layers, palettes, with loss."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mask_folders import config_for, drawn, follow, suggested, with_palette, write_masks
from seg.config import DataConfig
from seg.data import build_dataset
from seg.data.image_file import read_image, read_mask
from seg.data.inspection import find_warnings, inspect_split
from seg.errors import UserError

LABELS = np.zeros((8, 12), np.uint8)
LABELS[2:5, 3:7], LABELS[6, 2:8] = 1, 2
TWO = np.minimum(LABELS, 1)
NAMES = ("background", "car", "tree")
BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 255, 0)


def write_tiff(path, rows, size, bits, white_is_zero=False, sample_format=1):
    """Write an uncompressed grey TIFF; Pillow writes neither few bits nor signed bytes."""
    width, height = size
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8, 277: 1, 278: height}
    tags |= {279: len(rows), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + directory)


def write_png(path, rows, size, bits):
    """Write a grey PNG of few bits."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    stride = len(rows) // size[1]
    lines = b"".join(b"\0" + rows[start : start + stride] for start in range(0, len(rows), stride))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def packed(values_hw, bits):
    """Return rows of `bits` bits a value."""
    places = np.arange(bits - 1, -1, -1)
    return np.packbits(values_hw[..., None] >> places & 1).tobytes()


def label(root, names=NAMES, **settings):
    """Return the labels of a mask that was written to the data set of `write_masks`."""
    return build_dataset(config_for(root, names, **settings), "train")[0].mask


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("write", [write_png, write_tiff])
def test_greys_of_few_bits_are_the_stored_numbers_or_what_a_viewer_shows(tmp_path, write, bits):
    write_masks(tmp_path, a=LABELS)
    file = tmp_path / f"train/labels/a.{write.__name__.removeprefix('write_')}"
    (tmp_path / "train/labels/a.png").unlink()
    write(file, packed(LABELS, bits), (12, 8), bits)
    np.testing.assert_array_equal(label(tmp_path), LABELS)
    step = 255 // ((1 << bits) - 1)
    np.testing.assert_array_equal(label(tmp_path, value_map={0: 2, step: 1, 2 * step: 0}), 2 - LABELS)
    np.testing.assert_array_equal(read_image(file)[..., 0], LABELS * step)


def test_white_at_zero_is_told_where_values_are_no_classes(tmp_path):
    write_masks(tmp_path, a=LABELS)
    (tmp_path / "train/labels/a.png").unlink()
    write_tiff(tmp_path / "train/labels/a.tif", LABELS.tobytes(), (12, 8), 8, white_is_zero=True)
    with pytest.raises(UserError, match="255 .*0 is white in the file, so values are inverted"):
        label(tmp_path)


def test_bytes_with_a_sign_keep_it(tmp_path):
    values = np.arange(96, dtype=np.int8).reshape(8, 12) - 48
    write_tiff(tmp_path / "a.tif", values.tobytes(), (12, 8), 8, sample_format=2)
    with pytest.raises(UserError, match="a.tif: int8 values from -48 to 47; .*set data.value_range="):
        read_image(tmp_path / "a.tif")
    grey = read_image(tmp_path / "a.tif", DataConfig(value_range=(-48, 47)))[..., 0]
    assert grey[0, 0] == 0 and grey[-1, -1] == 255 and (np.diff(grey.ravel().astype(int)) >= 0).all()
    with pytest.raises(UserError, match="a.tif: mask values are 0…65535, found -48 to 47"):
        read_mask(tmp_path / "a.tif")
    write_tiff(tmp_path / "a.tif", LABELS.tobytes(), (12, 8), 8, sample_format=2)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif").values, LABELS)


@pytest.mark.parametrize("layers", [2, 3, 5])
@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float64])
def test_a_layer_for_each_class_is_read(tmp_path, layers, axis, dtype):
    numbers = np.arange(96).reshape(8, 12) % layers
    np.save(tmp_path / "a.npy", np.moveaxis(np.eye(layers, dtype=dtype)[numbers], 2, axis))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy").values, numbers)


def test_layers_of_scores_are_refused_with_what_to_write(tmp_path):
    np.save(tmp_path / "a.npy", np.full((8, 12, 5), 0.2))
    with pytest.raises(UserError, match="a.npy: .*save np.argmax over the layers"):
        read_mask(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(1, 8, 12), (8, 12, 1), (1, 8, 12, 1), (1, 1, 8, 12)])
def test_axes_of_length_1_are_left_out(tmp_path, shape):
    np.save(tmp_path / "a.npy", LABELS.reshape(shape))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy").values, LABELS)


def test_a_batch_of_one_image_is_that_image(tmp_path):
    image = np.arange(288, dtype=np.uint16).astype(np.uint8).reshape(1, 8, 12, 3)
    np.save(tmp_path / "a.npy", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy"), image[0])


def test_a_palette_that_merges_classes_is_refused_and_both_remedies_work(tmp_path):
    write_masks(tmp_path, a=with_palette(LABELS, BLACK, RED, RED))
    config = config_for(tmp_path, NAMES, palette=(BLACK, RED, GREEN))
    with pytest.raises(UserError, match="a.png: indices 1 and 2 of its palette are different classes") as error:
        build_dataset(config, "train")[0]
    by_value, by_colour = (
        build_dataset(follow(config, settings), "train")[0].mask for settings in suggested(str(error.value))
    )
    np.testing.assert_array_equal(by_value, LABELS)
    np.testing.assert_array_equal(by_colour, TWO)


def test_a_further_position_of_a_colour_is_that_class_without_a_remark(tmp_path):
    write_masks(tmp_path, a=with_palette(drawn(LABELS, 0, 1, 3), BLACK, RED, GREEN, RED))
    write_masks(tmp_path, "val", a=LABELS)
    config = config_for(tmp_path, NAMES, palette=(BLACK, RED, GREEN))
    np.testing.assert_array_equal(build_dataset(config, "train")[0].mask, TWO)
    report = inspect_split(config, "train", 0, lambda findings, **_: findings)
    assert not [line for line in find_warnings({"train": report}) if "palette" in line]


def test_an_ignored_position_is_ignored_where_the_rest_of_the_palette_is_black(tmp_path):
    write_masks(tmp_path, a=with_palette(drawn(LABELS, 0, 1, 255), BLACK, RED, *[BLACK] * 254))
    labels = label(tmp_path, NAMES[:2], palette=(BLACK, RED), ignore_value=255)
    np.testing.assert_array_equal(labels, drawn(LABELS, 0, 1, 255))


@pytest.mark.parametrize(("options", "mask_has_loss"), [({"lossless": True}, False), ({"quality": 100}, True)])
def test_a_lossy_webp_is_told_from_one_without_loss(tmp_path, options, mask_has_loss):
    colours = np.repeat(TWO.repeat(4, 0).repeat(4, 1)[..., None] * np.uint8(255), 3, axis=2)
    colours[0, 0] = (255, 252, 255)  # what compression makes of a grey
    Image.fromarray(colours).save(tmp_path / "a.webp", **options)
    mask = read_mask(tmp_path / "a.webp")
    assert mask.is_lossy == mask_has_loss and mask.has_colours != mask_has_loss


def test_a_tiff_with_a_jpeg_inside_is_lossy(tmp_path):
    Image.fromarray(TWO * 255).save(tmp_path / "a.tif", compression="jpeg")
    Image.fromarray(TWO * 255).save(tmp_path / "b.tif", compression="tiff_lzw")
    assert read_mask(tmp_path / "a.tif").is_lossy and not read_mask(tmp_path / "b.tif").is_lossy


def test_a_value_beyond_an_identical_map_gets_advice_that_works(tmp_path):
    write_masks(tmp_path, a=LABELS)
    config = config_for(tmp_path, NAMES[:2], value_map={0: 0, 1: 1})
    with pytest.raises(UserError) as error:
        build_dataset(config, "train")[0]
    for settings in suggested(str(error.value)):
        build_dataset(follow(config, settings), "train")[0]


def test_few_values_between_0_and_255_may_be_soft_edges(tmp_path):
    soft = np.kron(TWO, np.full((9, 9), 255, np.uint8))
    soft[18, 27:54] = 128
    write_masks(tmp_path, a=soft)
    config = config_for(tmp_path, NAMES[:2])
    with pytest.raises(UserError, match="soft edges of two classes, set data.threshold: 128") as error:
        build_dataset(config, "train")[0]
    labels = build_dataset(follow(config, suggested(str(error.value))[-1]), "train")[0].mask
    np.testing.assert_array_equal(labels, soft >= 128)


def test_training_tells_of_palettes_that_differ_and_check_tells_once(tmp_path, caplog):
    write_masks(tmp_path, a=with_palette(TWO, BLACK, RED), b=with_palette(TWO, BLACK, GREEN))
    config = config_for(tmp_path, NAMES[:2])
    dataset = build_dataset(config, "train")
    for index in (0, 1, 1):
        dataset[index]
    (message,) = caplog.messages
    assert f"b.png: index 1 of its palette is {GREEN}, and {RED} in {tmp_path}/train/labels/a.png" in message
    caplog.clear()
    report = inspect_split(config, "train", 0, lambda findings, **_: findings)
    assert sum("index 1" in line for line in find_warnings({"train": report})) == 1 and not caplog.messages


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_masks_in_colours_other_than_rgb_are_named_and_not_called_damaged(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / "a.tif")
    with pytest.raises(
        UserError, match=f"a.tif: a mask has no colours in {mode}; save it as a grey, palette or RGB image"
    ):
        read_mask(tmp_path / "a.tif")


def test_classes_of_one_name_are_named(tmp_path):
    write_masks(tmp_path, a=LABELS)
    assert build_dataset(config_for(tmp_path, ("a", "a", "b")), "train").notes == [
        "several classes are called a: tables and metrics cannot distinguish them"
    ]
