"""Turns an image upright, as its orientation tag says."""

from pathlib import Path

from PIL import Image, ImageOps

from seg.data.images.remarks import Remark


def turn_upright(image: Image.Image, path: Path, remark: Remark) -> None:
    """Decode an image and turn or mirror it as its EXIF or TIFF tag says, in place; all eight kinds.

    A damaged EXIF entry is passed over, as viewers do, with a remark.
    """
    try:
        image.getexif()
    except Exception as error:  # Pillow answers damage with nearly any exception
        image.load()  # raises what is wrong with the image itself
        remark("EXIF entry", path, f"its EXIF entry is damaged ({type(error).__name__}); the image is read as it lies")
    else:
        ImageOps.exif_transpose(image, in_place=True)
