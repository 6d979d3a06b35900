"""Images as a caller of the library has them: paths, bytes, open files, Pillow images, arrays."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from seg.config import DataConfig
from seg.data.image_file import naming_file, read_image
from seg.data.images.array_file import channels_last
from seg.data.images.pixel_values import image_of_array, image_of_picture, is_wide
from seg.data.images.remarks import Note, Remark
from seg.data.images.tags import turn_upright
from seg.errors import UserError

ImageInput = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray
"""What `read_input` reads; arrays of other libraries too, by `__array__`."""

NUMPY_MAGIC = b"\x93NUMPY"


def read_input(image: ImageInput, config: DataConfig, name: str, remark: Remark) -> np.ndarray:
    """Return the image by the rules of `seg.data.image_file.read_image`; errors begin with `name`.

    Args:
        image: a path, the bytes of an image file, a binary file, a Pillow image, or an array [h, w], [h, w, c] or
            [c, h, w], c being `channels`, 1, 3 or 4.
        config: channels, precision, value range and largest number of pixels.
        name: of the image, for messages.
        remark: called with what is dropped or guessed.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), config, remark)
    if isinstance(image, bytes | bytearray | memoryview):
        return _read_bytes(bytes(image), Path(name), config, remark)
    if hasattr(image, "read"):
        own_name = getattr(image, "name", name)
        path = Path(own_name if isinstance(own_name, str) else name)
        with naming_file(path), _reading():
            content = "" if hasattr(image, "encoding") else image.read()
            if not isinstance(content, bytes):
                raise UserError('expected a file opened as binary, found text; open it with open(path, "rb")')
            if not content:
                raise UserError("nothing is left to read in the open file; file.seek(0) goes back to its start")
        return _read_bytes(content, path, config, remark)
    with naming_file(name), _reading():
        return _read_decoded(image, config, lambda kind, text: remark(kind, Path(name), text))


def _read_decoded(image: Any, config: DataConfig, note: Note) -> np.ndarray:
    if isinstance(image, Image.Image) and not is_wide(image):
        return image_of_picture(image.copy(), None, config, note)
    if isinstance(image, Image.Image):
        image = image.copy()
        turn_upright(image, note)
    elif not hasattr(image, "__array__"):
        expected = "a path, bytes, an open file, a Pillow image or an array"
        raise UserError(f"expected {expected}, found {type(image).__name__}")
    array = np.asarray(image)
    if array.dtype.name == "bfloat16":  # numpy has no such type: jax's is an extension
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf" or not array.size:
        raise UserError(f"expected an array of numbers, found {array.dtype}{list(array.shape)}")
    return image_of_array(channels_last(array, config.channels), config, note)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Explain what the caller's object raises: a closed file, a truncated image, an array on another device."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot be read ({type(error).__name__}: {error})") from error


def _read_bytes(content: bytes, path: Path, config: DataConfig, remark: Remark) -> np.ndarray:
    """Read them through a temporary file: every check of image files reads a file."""
    suffix = ".npy" if content.startswith(NUMPY_MAGIC) else path.suffix
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / f"image{suffix}"
        partial.write_bytes(content)

        def remark_named(kind: str, _: Path, text: str) -> None:
            remark(kind, path, text)

        try:
            return read_image(partial, config, remark_named)
        except UserError as error:
            raise UserError(str(error).replace(str(partial), str(path))) from None
