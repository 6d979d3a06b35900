"""TIFFs of any layout: bands and planes, every type of number, several pages, and headers that lie."""

import dataclasses
import io
import struct

import numpy as np
import pytest
import tifffile

from seg.config import DataConfig
from seg.data import build_dataset
from seg.data.image_file import read_image, read_mask
from seg.data.images.stack import count_images
from seg.data.images.tiff_file import open_tiff
from seg.data.inspection import inspect_split
from seg.data.pairing.splits import find_split
from seg.data.settlement import settle_images
from seg.errors import UserError

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4000, (5, 8, 9), np.uint16)


def read_pages(file, channels=3):
    """Return the images [h, w, c] of a TIFF."""
    container = open_tiff(file, 10_000, channels)
    return [container.read(number) for number in range(len(container.pages))]


def write(array, **options):
    """Return an open TIFF of the array."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"compression": "zlib", "predictor": True},
        {"photometric": "miniswhite"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
    ],
    ids=str,
)
def test_pages_of_any_layout(options):
    pages = read_pages(write(STACK, **options))
    np.testing.assert_array_equal([page[..., 0] for page in pages], STACK)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4", "f8"])
def test_every_type_of_number(dtype):
    values = (RNG.random((8, 9)) * 100).astype(dtype)
    (page,) = read_pages(write(values))
    assert page.dtype == values.dtype
    np.testing.assert_array_equal(page[..., 0], values)


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_bands_of_a_page(planes, tmp_path):
    bands = RNG.random((8, 9, 12), np.float32)
    stored = bands if planes == "contig" else np.moveaxis(bands, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planes)
    config = DataConfig(channels=12, precision="float32")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", config), bands)
    with pytest.raises(UserError, match=r"a.tif: 12 channels, expected 3 .data.channels.; .* data.channels=12"):
        read_image(tmp_path / "a.tif")


def test_pages_that_are_the_channels_of_one_image():
    """As `tifffile.imwrite` saves [c, h, w], and by the axes that ImageJ and OME state."""
    (page,) = read_pages(write(STACK), channels=5)
    np.testing.assert_array_equal(page, np.moveaxis(STACK, 0, -1))
    stacks = RNG.integers(0, 4000, (3, 4, 8, 9), np.uint16)
    for options in ({"imagej": True}, {"ome": True}):
        pages = read_pages(write(stacks, **options, metadata={"axes": "ZCYX"}), channels=4)
        np.testing.assert_array_equal(pages, np.moveaxis(stacks, 1, -1))


def test_transparency_is_dropped_for_three_channels_and_kept_for_four(tmp_path):
    four = RNG.integers(0, 256, (8, 9, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", four, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", remark=lambda *_: None), four[..., :3])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", DataConfig(channels=4)), four)


def test_a_palette_in_a_stack_is_colours_in_images_and_indices_in_masks(tmp_path):
    indices = RNG.integers(0, 4, (2, 8, 9), np.uint8)
    colours = RNG.integers(0, 256, (256, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colours.T.astype(np.uint16) << 8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", page=1), colours[indices[1]])
    mask = read_mask(tmp_path / "a.tif", page=1)
    np.testing.assert_array_equal(mask.values, indices[1])
    np.testing.assert_array_equal(mask.palette, colours)


def data_of(root, **settings):
    return DataConfig(dataset="image_folder", root=str(root), class_names=("a", "b"), size=(8, 8), **settings)


def write_stack(root, split, name, pages, masks):
    for kind, arrays in (("images", pages), ("labels", masks)):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
        with tifffile.TiffWriter(root / split / kind / f"{name}.tif") as file:
            for array in arrays:
                file.write(array, metadata=None)


def test_a_stack_is_as_many_samples_whose_sizes_may_differ(tmp_path):
    pages = [STACK[0], STACK[1, :6, :7], STACK[2]]
    masks = [(page > 2000).astype(np.uint8) for page in pages]
    write_stack(tmp_path, "train", "cells", pages, masks)
    data = settle_images(data_of(tmp_path, channels=1))
    dataset = build_dataset(data, "train")
    assert len(dataset) == 3 and [dataset.name(i) for i in range(3)] == [f"train/cells[{i}]" for i in range(3)]
    for number, (page, mask) in enumerate(zip(pages, masks, strict=True)):
        np.testing.assert_allclose(dataset[number].image[..., 0], page / 4095, atol=1e-6)
        np.testing.assert_array_equal(dataset[number].mask, mask)
    report = inspect_split(data, "train", 0, lambda items, **_: items)
    assert not report.num_bad and report.notes == ["1 files hold several images, 3 in all"]


def test_a_stack_stays_in_one_split(tmp_path):
    for name in "abcd":
        write_stack(tmp_path, ".", name, STACK, STACK % 2)
    data = data_of(tmp_path, val_fraction=0.5)
    names = {split: {pair.name.split("[")[0] for pair in find_split(data, split).pairs} for split in ("train", "val")}
    assert len(names["train"]) == len(names["val"]) == 2 and not names["train"] & names["val"]


def test_a_mask_of_fewer_pages_is_a_problem(tmp_path):
    write_stack(tmp_path, "train", "a", STACK, STACK[:4] % 2)
    assert "4 pages, its image" in find_split(data_of(tmp_path), "train").problems[0]


def test_image_and_labels_in_one_file(tmp_path):
    """As TransUNet's slices: the image is float, the labels may be."""
    (tmp_path / "slices").mkdir()
    image, label = RNG.random((8, 9)).astype(np.float32), RNG.integers(0, 2, (8, 9)).astype(np.float32)
    for name in "abcd":
        np.savez(tmp_path / "slices" / f"{name}.npz", image=image, label=label)
    data = settle_images(data_of(tmp_path, channels=1, images_dir="slices", val_fraction=0.25))
    sample = build_dataset(data, "train")[0]
    np.testing.assert_array_equal(sample.image[..., 0], image)
    np.testing.assert_array_equal(sample.mask, label)
    same = dataclasses.replace(data, masks_dir="slices")
    assert len(build_dataset(same, "train")) == 3


def test_a_missing_decoder_is_named_with_the_line_to_type(monkeypatch):
    file = write(STACK, compression="zlib")
    for error in (ValueError("<LZW> requires the 'imagecodecs' package"), ModuleNotFoundError("compression")):

        def fail(*_, error=error, **options):
            raise error

        monkeypatch.setattr("tifffile.TiffPage.decode", property(lambda page, fail=fail: fail))
        with pytest.raises(UserError, match=r"compressed as ADOBE_DEFLATE: pip install .*\[tiff\]"):
            read_pages(file)


def chain(*offsets):
    """Return a TIFF whose pages of one tag lie at 8, 26, … and point at these places."""
    pages = (struct.pack("<HHHIII", 1, 256, 4, 1, 8, offset) for offset in offsets)
    return io.BytesIO(b"II*\0" + struct.pack("<I", 8) + b"".join(pages))


@pytest.mark.parametrize(("offsets", "message"), [((26, 8), "form a circle"), ((8,), "form a circle")])
def test_a_circle_of_pages_is_refused(offsets, message, tmp_path):
    with pytest.raises(UserError, match=message):
        open_tiff(chain(*offsets), 1000, 1)
    (tmp_path / "a.tif").write_bytes(chain(*offsets).getvalue())
    with pytest.raises(UserError, match="a.tif: .*circle"):
        read_image(tmp_path / "a.tif")
    assert count_images(tmp_path / "a.tif", DataConfig()) == 1


def test_too_many_pages_and_pixels_are_refused_before_they_are_read(monkeypatch):
    with pytest.raises(UserError, match="more than 10000 pages"):
        open_tiff(chain(*(26 + 18 * n for n in range(10_001)), 0), 1000, 1)
    with pytest.raises(UserError, match="8×9 pixels are more than data.max_pixels = 71"):
        open_tiff(write(STACK), 71, 1)
    lying = write(STACK[:2], compression="zlib", metadata=None)
    content = lying.getvalue().replace(struct.pack("<HHII", 256, 4, 1, 9), struct.pack("<HHII", 256, 4, 1, 1 << 30))
    content = content.replace(struct.pack("<HHIHH", 256, 3, 1, 9, 0), struct.pack("<HHII", 256, 4, 1, 1 << 30))
    with pytest.raises(UserError, match="1073741824 pixels are more"):
        open_tiff(io.BytesIO(content), 10_000, 1)
