"""Arrays of numpy as images and masks: their layouts, and that nothing is run or allocated at a file's word."""

import pickle

import numpy as np
import pytest

from seg.config import DataConfig
from seg.data.image_file import read_image, read_mask
from seg.errors import UserError


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("layout", ["hwc", "chw", "fortran", "rgba", "big_endian"])
def test_layouts_of_images(layout, colours, tmp_path):
    array = {
        "hwc": colours,
        "chw": colours.transpose(2, 0, 1),
        "fortran": np.asfortranarray(colours),
        "rgba": np.dstack([colours, colours[..., 0]]),
        "big_endian": (colours.astype(">u2") << 8) + 7,
    }[layout]
    remarks = []
    np.save(tmp_path / "a.npy", array)
    found = read_image(tmp_path / "a.npy", remark=lambda kind, *_: remarks.append(kind))
    np.testing.assert_array_equal(found, colours)
    assert found.dtype == np.uint8 and remarks == (["channels"] if layout == "rgba" else [])
    np.savez_compressed(tmp_path / "a.npz", array)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npz", remark=lambda *_: None), colours)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.uint16, np.float32])
def test_masks_are_whole_numbers(dtype, colours, tmp_path):
    labels = (colours[..., 0] % 2).astype(dtype)
    for shaped in (labels, labels[None], labels[..., None]):
        np.save(tmp_path / "a.npy", shaped)
        found = read_mask(tmp_path / "a.npy").values
        np.testing.assert_array_equal(found, labels.astype(int))
        assert found.dtype == np.uint8
    if dtype in (np.int64, np.uint16):
        np.save(tmp_path / "a.npy", labels * 60_000)
        assert read_mask(tmp_path / "a.npy").values.max() == 60_000
    np.save(tmp_path / "a.npy", colours)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.npy").values, colours)


@pytest.mark.parametrize("values", [[[-1, 0]], [[0.5, 0]], [[0, 65536]], [[np.nan, 0]]])
def test_masks_of_other_numbers_are_refused(values, tmp_path):
    np.save(tmp_path / "a.npy", np.array(values))
    with pytest.raises(UserError, match="a.npy: mask values are (0…65535|integers)"):
        read_mask(tmp_path / "a.npy")


def test_an_archive_of_several_arrays_names_them(colours, tmp_path):
    np.savez(tmp_path / "a.npz", first=colours, second=colours)
    with pytest.raises(UserError, match="found 2: 'first', 'second'"):
        read_image(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", image=colours, gain=np.zeros(3))
    np.testing.assert_array_equal(read_image(tmp_path / "a.npz"), colours)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("ran what a file holds",))


def test_what_is_no_array_of_pixels_is_refused(tmp_path):
    """Objects are not unpickled, and a header's size is held against the file before memory is taken."""
    path = tmp_path / "a.npy"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match=r"a.npy: damaged"):
        read_image(path)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '%s', 'fortran_order': False, 'shape': %s, }"
    for descr, shape, message in (
        (b"|O", b"(2, 2)", "an array of object"),
        (b"<c8", b"(2, 2)", "an array of complex64"),
        (b"<f8", b"(9000, 9000)", "damaged"),
        (b"<f8", b"(99999, 99999)", "data.max_pixels"),
        (b"<f8", b"(10**9, 3, 10**9)", "damaged"),
        (b"|u1", b"(0, 5)", "no values"),
        (b"|u1", b"(5, 5, 2)", r"\[5, 5, 2\]; expected \[h, w\]"),
        (b"|u1", b"(4, 5, 5, 3)", "each page as a file"),
        (b"|u1", b"(5,)", "expected"),
    ):
        path.write_bytes((header % (descr, shape)).ljust(127) + b"\n" + bytes(50))
        with pytest.raises(UserError, match=rf"a.npy: .*{message}"):
            read_image(path, DataConfig(max_pixels=100_000_000))
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="a.npz: a damaged numpy array, or none"):
        read_image(tmp_path / "a.npz")
