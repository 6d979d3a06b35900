"""A file of several pictures is refused by number and size; what every viewer shows as one picture is one."""

import numpy as np
import pytest
from PIL import Image

from seg.data.image_file import read_image, read_mask
from seg.errors import UserError


@pytest.fixture
def pictures():
    return [Image.fromarray(np.full((8, 9, 3), 50 * n, np.uint8)) for n in range(4)]


@pytest.mark.parametrize(
    ("suffix", "kind", "options"),
    [
        ("tif", "pages", {}),
        ("tif", "pages", {"compression": "tiff_lzw"}),
        ("gif", "frames", {}),
        ("png", "frames", {}),
        ("webp", "frames", {"lossless": True}),
    ],
)
def test_pages_and_frames_are_refused(suffix, kind, options, pictures, tmp_path):
    path = tmp_path / f"a.{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match=rf"a.{suffix}: 4 {kind}.* 8×9.* 1 to 4"):
            read(path)
    pictures[2].save(path, **options)
    assert read_image(path)[0, 0, 0] in (99, 100, 101)


def test_smaller_copies_and_the_previews_of_a_jpeg_are_no_pages(pictures, tmp_path):
    small = pictures[1].resize((4, 4))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    pictures[2].save(tmp_path / "a.tif", save_all=True, append_images=[small])
    assert (read_image(tmp_path / "a.tif") == 100).all()
    pictures[2].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[small])
    remarks = []
    found = read_image(tmp_path / "a.jpg", remark=lambda kind, *_: remarks.append(kind))
    assert np.abs(found.astype(int) - 100).max() < 3 and remarks == ["pictures"]


def test_the_pages_that_imagej_hides_behind_one_are_counted(tmp_path):
    stack = np.zeros((5, 8, 9), np.uint8)
    Image.fromarray(stack[0]).save(tmp_path / "a.tif", tiffinfo={270: "ImageJ=1.53\nimages=5\nslices=5\n"})
    assert read_image(tmp_path / "a.tif").shape == (8, 9, 3)  # cut out of a stack: the bytes of one page
    with open(tmp_path / "a.tif", "ab") as file:
        file.write(stack[1:].tobytes())
    with pytest.raises(UserError, match="a.tif: 5 pages"):
        read_image(tmp_path / "a.tif")
