"""An image and its mask lie as their own orientation tags say, whatever the format."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from seg.data import image_file
from seg.data.image_file import read_image

TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""Orientation tag → what a viewer does with the stored picture (EXIF 2.3, table 6)."""


def read_mask(path):
    return image_file.read_mask(path).values


@pytest.fixture
def grey():
    return np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, 8, 0), 8, 1)


def save(path, array, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)
    return path


def save_late_exif(path, array, orientation):
    """Write a PNG whose eXIf chunk comes after the pixels, as the standard allows."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    content = b"eXIf" + b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HHI", orientation, 0, 0)
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    path.write_bytes(file.getvalue()[:-12] + chunk + file.getvalue()[-12:])
    return path


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("tif", {"big_tiff": True}),
        ("webp", {"lossless": True}),
    ],
)
def test_lossless_images_and_masks_are_turned_alike(suffix, options, orientation, grey, tmp_path):
    """Masks as index, grey and 16-bit files; a mask without a tag lies as it is."""
    turned = TURNS[orientation](grey)
    colours = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    found = read_image(save(tmp_path / f"image.{suffix}", colours, orientation, **options))
    np.testing.assert_array_equal(found, TURNS[orientation](colours))
    np.testing.assert_array_equal(read_mask(save(tmp_path / f"c.{suffix}", colours, orientation, **options)), found)
    if suffix != "webp":
        for number, mask in enumerate((grey, grey.astype(np.uint16) * 200)):
            path = save(tmp_path / f"mask{number}.{suffix}", mask, orientation, **options)
            np.testing.assert_array_equal(read_mask(path), TURNS[orientation](mask))
    Image.fromarray(turned).save(tmp_path / "plain.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "plain.png"), turned)


@pytest.mark.parametrize("orientation", TURNS)
def test_jpeg_and_late_exif(orientation, grey, tmp_path):
    turned = TURNS[orientation](grey)
    found = read_image(save(tmp_path / "a.jpg", grey, orientation, quality=100))
    np.testing.assert_allclose(found, np.stack([turned] * 3, -1), atol=2)
    for read, expected in ((read_image, np.stack([turned] * 3, -1)), (read_mask, turned)):
        np.testing.assert_array_equal(read(save_late_exif(tmp_path / "late.png", grey, orientation)), expected)


def test_an_indexed_and_a_1_bit_mask_are_turned(grey, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    indexed = Image.fromarray(grey // 20)
    indexed.putpalette(list(range(256)) * 3)
    indexed.save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png"), np.rot90(grey // 20, -1))
    Image.fromarray(grey > 100).save(tmp_path / "bits.tif", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.tif"), np.rot90(grey > 100, -1))


def test_a_damaged_exif_entry_is_passed_over_with_a_remark(grey, tmp_path):
    remarks = []
    Image.fromarray(grey).save(tmp_path / "a.png", exif=b"Exif\0\0not a TIFF header")
    found = read_image(tmp_path / "a.png", remark=lambda *remark: remarks.append(remark))
    np.testing.assert_array_equal(found[..., 0], grey)
    assert [(kind, path.name) for kind, path, _ in remarks] == [("EXIF entry", "a.png")]
