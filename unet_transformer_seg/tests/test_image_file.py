"""Image and mask files: what each kind is read as, and that nothing harmful or damaged gets further than a message."""

import contextlib
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from seg.config import DataConfig
from seg.data.image_file import read_image, read_mask
from seg.data.images.image_kind import SUFFIXES
from seg.errors import UserError

LOSSLESS = ("png", "webp", "bmp", "tif", "tiff")


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def save(path, image, **options):
    Image.fromarray(image).save(path, **({"lossless": True} if path.suffix == ".webp" else {}), **options)
    return path


VOLUMES = ("nii", "nii.gz", "dcm", "dicom")  # tests/test_volumes.py


def test_every_suffix_is_tried():
    assert {suffix[1:] for suffix in SUFFIXES} == {*LOSSLESS, "jpg", "jpeg", "gif", "npy", "npz", *VOLUMES}


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_are_exact(suffix, picture, tmp_path):
    found = read_image(save(tmp_path / f"a.{suffix}", picture))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, picture)


def test_jpeg_is_read_as_rgb(tmp_path):
    smooth = np.zeros((32, 32, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    np.testing.assert_allclose(read_image(save(tmp_path / "a.jpg", smooth, quality=95)), smooth, atol=3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "PA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    """A grey ramp, whatever it is stored as, comes back as that ramp in three equal colours."""
    ramp = np.repeat(np.array([[0, 64, 128, 255]], np.uint8), 3, axis=0)
    if mode == "1":
        ramp = np.where(ramp > 100, 255, 0).astype(np.uint8)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "PA") else "a.png")
    if mode == "I;16":
        Image.fromarray(ramp.astype(np.uint16) * 256 + 7).save(path)  # the lower 8 bits go
    elif mode == "PA":
        Image.fromarray(ramp).convert("P").save(path)
    else:
        Image.fromarray(ramp).convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    np.testing.assert_array_equal(read_image(path), np.repeat(ramp[..., None], 3, axis=-1))


def test_transparency_is_dropped(tmp_path):
    colours = np.zeros((4, 4, 4), np.uint8)
    colours[..., :3], colours[0, 0, 3] = (10, 20, 30), 255
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", colours)), colours[..., :3])
    indexed = Image.fromarray(colours[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE)
    indexed.save(tmp_path / "b.png", transparency=bytes([128]))
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), colours[..., :3])


def test_a_photo_stands_upright(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save(tmp_path / "a.png", picture, exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(picture, -1))


def test_masks_keep_their_values(tmp_path):
    values = np.array([[0, 1, 11], [255, 7, 2]], np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "grey.png", values)).values, values)
    indexed = Image.fromarray(values)
    indexed.putpalette([c for i in range(256) for c in (255 - i, i, 7)])
    assert indexed.mode == "P"
    indexed.save(tmp_path / "palette.png")
    mask = read_mask(tmp_path / "palette.png")
    np.testing.assert_array_equal(mask.values, values)
    np.testing.assert_array_equal(mask.palette[11], (244, 11, 7))
    wide = values.astype(np.uint16) * 200
    np.testing.assert_array_equal(read_mask(save(tmp_path / "wide.png", wide)).values, wide)
    Image.fromarray(values > 1).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png").values, values > 1)
    colours = np.stack([values, values + 1, values], axis=-1)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "rgb.png", colours)).values, colours)


def png_of_size(height, width):
    """Return a PNG that claims a size and holds a single row's worth of data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 9_500), (2_000_000_000, 2_000_000_000)])
def test_a_huge_size_is_refused_before_anything_is_decoded(size, tmp_path, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(png_of_size(*size))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match=r"bomb.png: .*data.max_pixels = 50000000"):
            read(tmp_path / "bomb.png", DataConfig(max_pixels=50_000_000))


def test_the_limit_is_the_configs(picture, tmp_path):
    path = save(tmp_path / "a.png", picture)
    assert read_image(path, DataConfig(max_pixels=12 * 17)).shape == (12, 17, 3)
    with pytest.raises(UserError, match="12×17 pixels are more than data.max_pixels = 203"):
        read_image(path, DataConfig(max_pixels=203))


BAD = {
    "empty": (b"", "an empty file"),
    "text": (b"hello, this is no image\n", "text that starts with 'hello"),
    "bytes": (bytes(range(128, 255)), "not an image, its first bytes are 80 81"),
    "gif": (b"GIF89a" + bytes(100), "a damaged GIF"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(100), "a HEIC image; convert it to PNG or JPEG"),
    "avif": (b"\0\0\0\x18ftypavif" + bytes(100), "an AVIF image; convert it"),
    "mac": (b"\0\x05\x16\x07\0\2\0\0Mac OS X", "a file of macOS attributes"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "page": (b"<!DOCTYPE html><html>", "a web page"),
    "zeros": (bytes(1000), "all zeros"),
    "dicom": (bytes(128) + b"DICM", "a DICOM file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_named(name, tmp_path):
    content, message = BAD[name]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(UserError) as error:
            read(path)
        assert str(path) in str(error.value) and message in str(error.value)


def test_formats_outside_the_list_are_refused_even_where_pillow_knows_them(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png", format="PPM")
    with pytest.raises(UserError, match=r"a.png: a PNM image.* expected an image \(PNG, JPEG"):
        read_image(tmp_path / "a.png")


def test_a_gif_is_read_as_image_and_as_mask(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
    indexed = Image.fromarray(values)
    indexed.putpalette([0, 0, 0, 255, 255, 255])
    indexed.save(tmp_path / "a.gif")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.gif").values, values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif")[..., 1], values * 255)


def test_missing_files_folders_and_pipes_are_named(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match="none.png: no such file"):
            read(tmp_path / "none.png")
        for name in ("folder.png", "pipe.png"):
            with pytest.raises(UserError, match=f"{name}: expected a file, found a"):
                read(tmp_path / name)


def remarks_of(path, read=read_image):
    remarks = []
    read(path, remark=lambda *remark: remarks.append(remark))
    assert all(file == path for _, file, _ in remarks)
    return [kind for kind, _, _ in remarks]


def test_what_is_left_out_is_remarked(picture, tmp_path):
    """Transparency where a pixel has it, and channels beyond the third."""
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    path = save(tmp_path / "opaque.png", np.dstack([picture, alpha]))
    assert remarks_of(path) == []
    alpha[0, 0] = 0
    path = save(tmp_path / "holes.png", np.dstack([picture, alpha]))
    assert remarks_of(path) == ["transparency"]
    indexed = Image.fromarray(picture[..., 0] // 128)
    indexed.putpalette([9, 9, 9, 80, 80, 80])
    indexed.save(tmp_path / "indexed.png", transparency=1)
    assert remarks_of(tmp_path / "indexed.png") == ["transparency"]
    Image.frombytes("RGBX", (17, 12), np.dstack([picture, alpha]).tobytes()).save(tmp_path / "four.tif")
    assert remarks_of(tmp_path / "four.tif") == remarks_of(tmp_path / "four.tif", read_mask) == ["channels"]
    np.testing.assert_array_equal(read_image(tmp_path / "four.tif"), picture)


def test_lab_is_converted_and_inverted_cmyk_is_not_a_negative(tmp_path):
    colour = np.full((8, 8, 3), (200, 40, 60), np.uint8)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.fromarray(colour), *profiles, outputMode="LAB").save(tmp_path / "a.tif")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), colour, atol=3)
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "a.jpg", quality=100)  # inverted, as Adobe writes it
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg"), colour, atol=5)


@pytest.mark.parametrize("suffix", [*LOSSLESS, "jpg"])
def test_a_truncated_file_is_named(suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"cut.{suffix}", noise)
    content = path.read_bytes()
    for share in (0.02, 0.3, 0.7):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match=f"cut.{suffix}"):
            read_image(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([*LOSSLESS, "jpg"]),
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_file_gives_an_image_or_a_message(suffix, places, tmp_path, picture):
    path = save(tmp_path / f"damaged.{suffix}", picture)
    content = bytearray(path.read_bytes())
    for place, value in places:
        content[int(place * len(content))] = value
    path.write_bytes(content)
    for read in (read_image, read_mask):
        try:
            content = read(path, DataConfig(max_pixels=1_000_000))
            assert (content.values if read is read_mask else content).ndim in (2, 3)
        except UserError as error:
            assert str(path) in str(error)


def test_the_pixel_limit_of_pillow_is_suspended_only_while_threads_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 64 × 64 is beyond twice this limit
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])

    def read(number):
        with contextlib.suppress(UserError):
            return read_image(tmp_path / ("damaged.png" if number % 3 == 0 else "a.png")).shape

    with ThreadPoolExecutor(4) as pool:
        shapes = list(pool.map(read, range(60)))
    assert shapes == [None if number % 3 == 0 else (64, 64, 3) for number in range(60)]
    assert Image.MAX_IMAGE_PIXELS == 100
