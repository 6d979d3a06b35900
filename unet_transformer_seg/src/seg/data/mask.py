"""What a mask file says of its pixels: values, or colours, or values with a palette."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from PIL import Image

from seg.classes import MAX_MASK_VALUE
from seg.data.stated_bits import is_inverted
from seg.errors import UserError

LOSSY_FORMATS = ("JPEG", "MPO")


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """The content of a mask file.

    Attributes:
        values: uint8 or uint16 [h, w], grey values or positions in a palette; or uint8[h, w, 3], colours. Colours
            that are all grey are values.
        palette: uint8[n, 3], the colour of each position; None where `values` are grey values or colours.
        is_bits: a picture of 1 bit, or an array of truth values: 0 and 1, which a viewer shows as 0 and 255.
        is_lossy: JPEG, which changes values.
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    is_bits: bool = False
    is_lossy: bool = False

    @property
    def has_colours(self) -> bool:
        """Whether `values` are colours."""
        return self.values.ndim == 3

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """int64[n], the pixels of each value; not of colours."""
        return np.bincount(self.values.ravel())

    @functools.cached_property
    def used(self) -> np.ndarray:
        """int64[u], the values that occur."""
        return np.flatnonzero(self.counts)

    @functools.cached_property
    def shown_greys(self) -> np.ndarray | None:
        """int64[u], the grey that a viewer shows for each of `used`; None where it shows colours or the values."""
        if self.is_bits:
            return self.used * 255
        if self.palette is None or not is_grey(self.palette[self.used]):
            return None
        return self.palette[self.used, 0].astype(np.int64)

    @functools.cached_property
    def shown_colours(self) -> np.ndarray | None:
        """uint8[u, 3], the colour that a viewer shows for each of `used`; None where a value needs 16 bits."""
        if self.palette is not None:
            return self.palette[self.used]
        greys = self.used if self.shown_greys is None else self.shown_greys
        return None if greys.size and greys[-1] > 255 else np.repeat(greys[:, None], 3, axis=1).astype(np.uint8)


def mask_of_image(image: Image.Image, path: Path) -> Mask:
    """Return the mask that a picture holds, which is upright already.

    Raises:
        UserError: naming the file: transparency that differs within a colour, or values that are no whole numbers.
        ValueError: a kind of picture that no mask has.
    """
    is_lossy = image.format in LOSSY_FORMATS
    match image.mode:
        case "1":
            return Mask(np.asarray(image).astype(np.uint8), is_bits=True)
        case "L" | "I" | "F":
            mask = mask_of_array(np.asarray(image), path)
        case "P" | "PA":
            mask = _of_palette(image)
        case "LA" | "RGB" | "RGBA":
            mask = mask_of_array(_without_alpha(np.asarray(image), path), path)
        case mode if mode.startswith("I;16"):
            array = np.asarray(image)
            mask = mask_of_array(65535 - array if is_inverted(image) else array, path)
        case mode:
            raise ValueError(f"Pillow's mode {mode}; save the mask as a grey, palette or RGB image")
    return dataclasses.replace(mask, is_lossy=is_lossy)


def mask_of_array(array: np.ndarray, path: Path) -> Mask:
    """Return the mask of an array [h, w], [h, w, 1] or [h, w, 3] of truth values or whole numbers of any type.

    Raises:
        UserError: naming the file: another shape, or numbers that are no values of a mask.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or array.dtype.kind not in "biuf":
        shape = "×".join(map(str, array.shape))
        raise UserError(f"{path}: expected a mask of height×width numbers, found {shape} of the type {array.dtype}")
    if array.dtype == bool:
        return Mask(array.astype(np.uint8), is_bits=True)
    array = _whole(array, path)
    if array.ndim == 2:
        return Mask(array)
    if is_grey(array):
        return Mask(np.ascontiguousarray(array[..., 0]))
    if array.dtype == np.uint16 and not (array % 257).any():
        array = (array // 257).astype(np.uint8)  # 65535 is the full red of 16 bits, as 255 is of 8
    if array.dtype != np.uint8:
        raise UserError(f"{path}: expected colours of 0 to 255, found up to {array.max()}")
    return Mask(array)


def is_grey(colours: np.ndarray) -> bool:
    """Return whether red, green and blue [..., 3] are equal everywhere."""
    return bool((colours[..., 0] == colours[..., 1]).all() and (colours[..., 1] == colours[..., 2]).all())


def _whole(array: np.ndarray, path: Path) -> np.ndarray:
    """Return the numbers as uint8 where they fit, else as uint16."""
    if array.dtype == np.uint8 or not array.size:
        return array.astype(np.uint8)
    low, high = array.min().item(), array.max().item()
    if not (low >= 0 and high <= MAX_MASK_VALUE):  # true of NaN, too
        advice = "write another value for those, such as 255, and set data.ignore_value to it"
        raise UserError(f"{path}: mask values are 0…{MAX_MASK_VALUE}, found {low} to {high}; {advice}")
    whole = array.astype(np.uint8 if high <= 255 else np.uint16)
    if array.dtype.kind == "f" and (whole != array).any():
        example = float(array[whole != array][0])
        raise UserError(f"{path}: mask values are whole numbers, found {example:.6g}; save classes, not probabilities")
    return whole


def _of_palette(image: Image.Image) -> Mask:
    """Return positions and palette; a palette of 0, 1, 2, … in grey says nothing beside the positions."""
    values_hw = np.array(image.getchannel(0) if image.mode == "PA" else image)
    palette = np.zeros((256, 3), np.uint8)
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    palette[: len(colours)] = colours
    mask = Mask(values_hw, palette)
    plain = mask.shown_greys is not None and (mask.shown_greys == mask.used).all()
    return Mask(values_hw) if plain else mask


def _without_alpha(array: np.ndarray, path: Path) -> np.ndarray:
    """Return grey [h, w] or colours [h, w, 3]; the transparency may not say more than these do."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if channels in (1, 3):
        return array
    colours, alpha = array[..., :-1], array[..., -1]
    if alpha.size and (alpha != alpha.flat[0]).any():
        codes = np.zeros(alpha.shape, np.int64)
        for channel in np.moveaxis(colours, -1, 0):
            codes = codes << 8 | channel
        if len(np.unique(codes << 8 | alpha)) > len(np.unique(codes)):
            raise UserError(
                f"{path}: its pixels of one colour differ in transparency (alpha {alpha.min()} to {alpha.max()}), so "
                "colour and transparency say two things; save the mask without transparency"
            )
    return colours[..., 0] if channels == 2 else colours
