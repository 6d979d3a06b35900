"""The same picture of 8, 12, 14 and 16 bits is the same image; what is guessed, clipped or contradictory is told."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from seg.config import DataConfig
from seg.data.image_file import read_image, read_mask
from seg.data.images.value_range import AUTO
from seg.errors import UserError


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (12, 17), dtype=np.uint8)


def read(path, value_range=AUTO):
    """Return the image's first channel and the kinds of the remarks, which all name the file."""
    remarks = []
    image_hwc = read_image(
        path, DataConfig(max_pixels=1000, value_range=value_range), lambda *remark: remarks.append(remark)
    )
    assert all(file == path for _, file, _ in remarks)
    assert (image_hwc == image_hwc[..., :1]).all()
    return image_hwc[..., 0], [kind for kind, _, _ in remarks]


def widen(picture, bits, low_bits=True):
    """Return the picture with `bits` bits in 16, as a sensor or a shift makes them."""
    wide = picture.astype(np.uint16)
    return wide << (bits - 8) | (wide >> (16 - bits) if low_bits else 0)


def png(array, *chunks):
    """Return a 16-bit PNG [h, w] or [h, w, c], with further chunks before the pixels."""
    channels = array.shape[2] if array.ndim == 3 else 1
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = (b"IHDR" + header, *chunks, b"IDAT" + zlib.compress(rows), b"IEND")
    packed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("low_bits", [True, False])
def test_one_picture_of_any_depth_is_one_image(low_bits, bits, suffix, picture, tmp_path):
    wide, path = widen(picture, bits, low_bits), tmp_path / f"a.{suffix}"
    np.save(path, wide) if suffix == "npy" else Image.fromarray(wide).save(path)
    found, remarks = read(path)
    np.testing.assert_array_equal(found, picture)
    assert remarks == (["bit depth"] if bits < 16 else [])
    dark = wide // 16
    np.save(path, dark) if suffix == "npy" else Image.fromarray(dark).save(path)
    found, remarks = read(path, (0, (1 << bits) - 1))  # stated: a dark picture stays dark, and nothing is guessed
    np.testing.assert_array_equal(found, dark >> (bits - 8))
    assert remarks == []


def test_a_guess_names_the_largest_value_and_the_setting(picture, tmp_path, caplog):
    picture[0, 0] = 255
    Image.fromarray(picture.astype(np.uint16) * 2).save(tmp_path / "dark.tif")
    read_image(tmp_path / "dark.tif")
    assert "dark.tif: uint16 values up to 510" in caplog.text
    black, white = re.search(r"set data.value_range=\[(\d+),(\d+)\]", caplog.text).groups()
    found, remarks = read(tmp_path / "dark.tif", (float(black), float(white)))  # followed
    np.testing.assert_array_equal(found, picture.astype(np.uint16) * 2 >> 8)
    assert not remarks


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_colours_of_16_bits_in_png(bits, channels, picture, tmp_path):
    """Pillow takes the upper bytes: 12 bits would be black."""
    picture[0, 0] = 255
    (tmp_path / "a.png").write_bytes(png(np.dstack([widen(picture, bits)] * channels)))
    found, remarks = read(tmp_path / "a.png")
    np.testing.assert_array_equal(found, picture)
    assert set(remarks) == ({"bit depth"} if bits < 16 else set()) | ({"transparency"} if channels != 3 else set())
    found, _ = read(tmp_path / "a.png", (0, 65535))
    np.testing.assert_array_equal(found, widen(picture, bits) >> 8)


def tiff(array, byte_order="<", photometric=None, extra=(), bits=16, sample_format=1):
    """Return an uncompressed TIFF, [h, w] or [h, w, c], with the tags that Pillow does not write."""
    channels = array.shape[2] if array.ndim == 3 else 1
    photometric = (2 if channels >= 3 else 1) if photometric is None else photometric
    content = array.astype(array.dtype.newbyteorder(byte_order)).tobytes()
    tags = [(256, array.shape[1]), (257, array.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, channels), (278, array.shape[0]), (279, len(content)), (339, sample_format), *extra]
    fields = b"".join(struct.pack(f"{byte_order}HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    start = {"<": b"II*\0", ">": b"MM\0*"}[byte_order] + struct.pack(f"{byte_order}I", 8 + len(content))
    return start + content + struct.pack(f"{byte_order}H", len(tags)) + fields + bytes(4)


@pytest.mark.parametrize("byte_order", "<>")
@pytest.mark.parametrize("bits", [12, 16])
def test_colours_of_16_bits_in_tiff(bits, byte_order, picture, tmp_path):
    wide = np.dstack([widen(picture, bits)] * 3)
    (tmp_path / "a.tif").write_bytes(tiff(wide, byte_order))
    found, remarks = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, picture)
    assert remarks == (["bit depth"] if bits < 16 else [])
    (tmp_path / "a.tif").write_bytes(tiff(wide, byte_order, extra=[(274, 6)]))
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], np.rot90(picture, -1))
    planes = np.moveaxis(wide, -1, 0).reshape(wide.shape)
    (tmp_path / "a.tif").write_bytes(tiff(planes, byte_order, extra=[(284, 2)]))
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], picture)


@pytest.mark.parametrize("kind", ["sBIT", "MaxSampleValue", "OME"])
def test_stated_bits_count_and_a_dark_picture_stays_dark(kind, picture, tmp_path):
    dark = widen(picture, 12) // 16
    path = tmp_path / ("a.png" if kind == "sBIT" else "a.tif")
    if kind == "sBIT":
        path.write_bytes(png(dark, b"sBIT\x0c"))
    else:
        ome = '<OME><Pixels SignificantBits="12" SizeX="17"/></OME>'
        Image.fromarray(dark).save(path, tiffinfo={281: 4095} if kind == "MaxSampleValue" else {270: ome})
    found, remarks = read(path)
    np.testing.assert_array_equal(found, dark >> 4)
    assert remarks == []
    _, remarks = read(path, (0, 1023))
    assert remarks == ["value range"]  # the file and the setting differ


def test_sbit_of_a_scaled_png_is_its_standards(picture, tmp_path):
    """The standard wants values scaled up to 16 bits; the stated ones are the upper bits."""
    (tmp_path / "a.png").write_bytes(png(widen(picture, 16) // 2 & 0xFFF0, b"sBIT\x0c"))
    found, remarks = read(tmp_path / "a.png")
    np.testing.assert_array_equal(found, picture // 2)
    assert remarks == []


def test_a_statement_that_the_values_contradict_is_told(picture, tmp_path):
    Image.fromarray(widen(picture, 14)).save(tmp_path / "a.tif", tiffinfo={281: 1023})
    found, remarks = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, picture)
    assert remarks == ["bit depth"]


def test_where_zero_is_white_a_viewer_shows_the_negative(picture, tmp_path):
    for array, bits in ((picture, 8), (widen(picture, 16), 16), (widen(picture, 12), 16)):
        (tmp_path / "a.tif").write_bytes(tiff(array, photometric=0, bits=bits))
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], 255 - picture)
        shown = read_mask(tmp_path / "a.tif").values
        np.testing.assert_array_equal(shown, array.max().dtype.type((1 << bits) - 1) - array)
    Image.fromarray(picture > 100).save(tmp_path / "bits.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(read(tmp_path / "bits.tif")[0], 255 * (picture > 100))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats(dtype, picture, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, (picture / dtype(255)).astype(dtype))
    found, remarks = read(path)
    np.testing.assert_array_equal(found, picture)
    assert remarks == []
    np.save(path, picture.astype(dtype))
    found, remarks = read(path)
    np.testing.assert_array_equal(found, picture)
    assert remarks == ["bit depth"]


def test_32_bit_tiffs(picture, tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(picture.astype(np.float32) / 255).save(path)
    np.testing.assert_array_equal(read(path)[0], picture)
    Image.fromarray(widen(picture, 12).astype(np.int32)).save(path)
    np.testing.assert_array_equal(read(path)[0], picture)
    path.write_bytes(tiff(widen(picture, 12).astype(np.int16), sample_format=2))
    np.testing.assert_array_equal(read(path)[0], picture)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-1000, 400]], np.int16), r"int16 values from -1000 to 400; .* data.value_range=\[-1000,400\]"),
        (np.array([[-0.5, 0.5]], np.float32), r"data.value_range=\[-0.5,0.5\]"),
        (np.array([[0, 1.02]], np.float32), r"data.value_range=\[0,1.02\]"),
        (np.array([[0, 70_000]], np.int32), r"data.value_range=\[0,70000\]"),
    ],
)
def test_a_range_that_no_rule_covers_is_refused_and_the_advice_works(values, message, tmp_path):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / "a.npy")
    low, high = (float(number) for number in str(error.value).split("[")[1].split("]")[0].split(","))
    np.testing.assert_array_equal(read(tmp_path / "a.npy", (low, high))[0], [[0, 255]])


def test_a_window_clips_and_says_so(tmp_path):
    np.save(tmp_path / "ct.npy", np.array([[-1024, -160, 40, 240, 3000]], np.int16))
    found, remarks = read(tmp_path / "ct.npy", (-160, 240))
    np.testing.assert_array_equal(found, [[0, 0, 127, 255, 255]])
    assert remarks == ["value range"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_counted(bad, tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0.1, bad, bad]], np.float32))
    with pytest.raises(UserError, match="a.npy: 2 of 3 values are NaN or infinite"):
        read(tmp_path / "a.npy")
