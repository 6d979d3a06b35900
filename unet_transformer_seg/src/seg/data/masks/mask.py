"""The content of a mask file (values, colours, or values with a palette), and counts of it over many masks."""

import dataclasses
import functools
from collections import Counter

import numpy as np
from PIL import Image

from seg.classes import MAX_CLASSES, MAX_MASK_VALUE, Colour
from seg.data.images.container import Page
from seg.data.images.tags import has_signed_bytes, is_inverted, is_white_zero
from seg.errors import UserError

NEARLY_GREY = 8  # largest difference between red, green and blue that lossy compression may turn a grey into


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """The content of a mask file."""

    # uint8 or uint16 [h, w], grey values or palette indices; or uint8[h, w, 3], colours. Colours that are all grey are
    # values.
    values: np.ndarray
    # uint8[n, 3], the colour of each index; None if `values` are grey values or colours
    palette: np.ndarray | None = None
    depth: int = 8  # bits of a grey value; with fewer than 8 (bool: 1), values are 0, 1, …, the largest shown as 255
    is_lossy: bool = False  # lossy compression may have changed values
    is_inverted: bool = False  # 0 is white in the file; `values` are as viewers show them

    @property
    def has_colours(self) -> bool:
        """Whether `values` are colours."""
        return self.values.ndim == 3

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """int64[n], pixels of each value; not for colours."""
        return np.bincount(self.values.ravel())

    @functools.cached_property
    def used(self) -> np.ndarray:
        """int64[u], the values that occur."""
        return np.flatnonzero(self.counts)

    @functools.cached_property
    def shown_greys(self) -> np.ndarray | None:
        """int64[u], the grey that a viewer shows for each of `used`; None if it shows colours or the values."""
        if self.depth < 8:
            return self.used * (255 // ((1 << self.depth) - 1))
        if self.palette is None or not is_grey(self.palette[self.used]):
            return None
        return self.palette[self.used, 0].astype(np.int64)

    @functools.cached_property
    def shown_colours(self) -> np.ndarray | None:
        """uint8[u, 3], the colour that a viewer shows for each of `used`; None if a value needs 16 bits."""
        if self.palette is not None:
            return self.palette[self.used]
        greys = self.used if self.shown_greys is None else self.shown_greys
        return None if greys.size and greys[-1] > 255 else np.repeat(greys[:, None], 3, axis=1).astype(np.uint8)


def mask_of_image(image: Image.Image, depth: int = 8, is_lossy: bool = False) -> Mask:
    """Return the mask of a decoded, upright picture with grey values of `depth` bits.

    Transparency that differs within a colour, values that are not integers, and colours other than RGB are refused.
    """
    if is_lossy and image.mode == "RGB":
        colours = np.asarray(image)
        if (colours.max(axis=2) - colours.min(axis=2)).max(initial=0) <= NEARLY_GREY:
            image = image.convert("L")
    match image.mode:
        case "1":
            mask = Mask(np.asarray(image).astype(np.uint8), depth=1)
        case "L" if has_signed_bytes(image):
            mask = mask_of_array(np.asarray(image).view(np.int8))
        case "L" if depth < 8:
            mask = Mask(np.asarray(image) // np.uint8(255 // ((1 << depth) - 1)), depth=depth)
        case "L" | "I" | "F":
            mask = mask_of_array(np.asarray(image))
        case "P" | "PA":
            mask = _of_palette(image)
        case "LA" | "RGB" | "RGBA":
            mask = mask_of_array(_without_alpha(np.asarray(image)))
        case mode if mode.startswith("I;16"):
            array = np.asarray(image)
            mask = mask_of_array(65535 - array if is_inverted(image) else array)
        case mode:
            raise UserError(f"a mask has no colours in {mode}; save it as a grey, palette or RGB image")
    return dataclasses.replace(mask, is_lossy=is_lossy, is_inverted=is_white_zero(image))


def mask_of_array(array: np.ndarray) -> Mask:
    """Return the mask of an array of bools or integers, of any dtype, or refuse numbers that are not mask values.

    Values are [h, w] or [h, w, 1], colours [h, w, 3], one-hot layers of the classes [h, w, k].
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and _is_one_hot(array):
        return Mask(array.argmax(axis=2).astype(np.uint8))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or array.dtype.kind not in "biuf":
        shape = "×".join(map(str, array.shape))
        raise UserError(
            f"expected a mask of height×width numbers, found {shape} of {array.dtype}; if these are layers of "
            "scores, save np.argmax over the layers"
        )
    if array.dtype == bool:
        return Mask(array.astype(np.uint8), depth=1)
    array = _as_integers(array)
    if array.ndim == 2:
        return Mask(array)
    if is_grey(array):
        return Mask(np.ascontiguousarray(array[..., 0]))
    if array.dtype == np.uint16 and not (array % 257).any():
        array = (array // 257).astype(np.uint8)  # full red is 65535 in 16 bits and 255 in 8
    if array.dtype != np.uint8:
        raise UserError(f"expected colours of 0 to 255, found up to {array.max()}")
    return Mask(array)


def mask_of_page(values_hwc: np.ndarray, page: Page) -> Mask:
    """Return the mask in the values of a page, whose header may say that 0 is white, or give a palette."""
    if page.palette is not None and values_hwc.dtype == np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(page.palette)] = page.palette
        return Mask(values_hwc[..., 0], palette)
    if page.is_inverted and values_hwc.dtype.kind in "bu":
        values_hwc = ~values_hwc  # as viewers show them
    return dataclasses.replace(mask_of_array(values_hwc), is_inverted=page.is_inverted)


def is_grey(colours: np.ndarray) -> bool:
    """Return whether red, green and blue [..., 3] are equal everywhere."""
    return bool((colours[..., 0] == colours[..., 1]).all() and (colours[..., 1] == colours[..., 2]).all())


def _is_one_hot(array: np.ndarray) -> bool:
    if array.dtype.kind not in "biuf" or array.shape[2] > MAX_CLASSES:
        return False
    ones, zeros = np.count_nonzero(array == 1, axis=2), np.count_nonzero(array == 0, axis=2)
    return bool((ones == 1).all() and (zeros == array.shape[2] - 1).all())


def _as_integers(array: np.ndarray) -> np.ndarray:
    """Return the numbers as uint8 if they fit, else as uint16."""
    if array.dtype == np.uint8 or not array.size:
        return array.astype(np.uint8)
    low, high = array.min().item(), array.max().item()
    advice = "write another value for those, such as 255, and set data.ignore_value to it"
    if not (np.isfinite(low) and np.isfinite(high)):
        count = np.count_nonzero(~np.isfinite(array))
        raise UserError(f"mask values are integers, found NaN or infinity in {count:,} of {array.size:,}; {advice}")
    if low < 0 or high > MAX_MASK_VALUE:
        raise UserError(f"mask values are 0…{MAX_MASK_VALUE}, found {low} to {high}; {advice}")
    integers = array.astype(np.uint8 if high <= 255 else np.uint16)
    if array.dtype.kind == "f" and (integers != array).any():
        example = float(array[integers != array][0])
        raise UserError(f"mask values are integers, found {example:.6g}; save classes, not probabilities")
    return integers


def _of_palette(image: Image.Image) -> Mask:
    """Return indices and palette; a grey palette of 0, 1, 2, … is dropped, as it repeats the indices."""
    values_hw = np.array(image.getchannel(0) if image.mode == "PA" else image)
    palette = np.zeros((256, 3), np.uint8)
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    palette[: len(colours)] = colours
    mask = Mask(values_hw, palette)
    plain = mask.shown_greys is not None and (mask.shown_greys == mask.used).all()
    return Mask(values_hw) if plain else mask


_ADVICE_ON_ALPHA = (
    "if the colours are the classes, save the mask without transparency, Image.open(…).convert('RGB'); if the "
    "transparency is, save only that, Image.open(…).getchannel('A')"
)


def _without_alpha(array: np.ndarray) -> np.ndarray:
    """Return grey [h, w] or colours [h, w, 3]; refuse transparency that carries information of its own."""
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
                f"its pixels of one colour differ in transparency (alpha {alpha.min()} to {alpha.max()}), so "
                f"either may mean the class; {_ADVICE_ON_ALPHA}"
            )
    return colours[..., 0] if channels == 2 else colours


MAX_KEPT = 4096  # largest number of values, colours or sets that are kept; a photograph has more
MANY = 20  # number of values or colours that masks drawn with one for each class rarely exceed


@dataclasses.dataclass
class Census:
    """What masks hold."""

    # Value → pixels, of grey masks and of palettes read by index
    values: Counter[int] = dataclasses.field(default_factory=Counter)
    masks: Counter[int] = dataclasses.field(default_factory=Counter)  # value → masks
    # Set of the values of a mask → masks with exactly these
    sets: Counter[frozenset[int]] = dataclasses.field(default_factory=Counter)
    colours: Counter[Colour] = dataclasses.field(default_factory=Counter)  # colour → pixels, of the remaining masks
    num_inverted: int = 0  # masks in whose files 0 is white
    num_lossy: int = 0  # masks with lossy compression
    num_changes: int = 0  # pixels that differ from their left neighbour, in masks of more than `MANY` values
    num_palettes: int = 0  # masks with a palette that were read by colour although their indices are classes

    def add(self, other: "Census") -> None:
        """Add the counts of other masks."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, int):
                setattr(self, field.name, mine + theirs)
            else:
                mine.update({key: count for key, count in theirs.items() if key in mine or len(mine) < MAX_KEPT})


def take_census(mask: Mask, by_colour: bool = False, known_indices: bool = False) -> Census:
    """Return the census of one mask; `by_colour` counts the colours of its palette instead of the indices.

    `known_indices` states that all its indices are classes.
    """
    census = Census(num_inverted=int(mask.is_inverted), num_lossy=int(mask.is_lossy))
    if mask.has_colours:
        codes, counts = np.unique(pack(mask.values), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MAX_KEPT]
        census.colours.update({unpack(codes[i]): int(counts[i]) for i in order})
    elif by_colour and mask.shown_colours is not None:
        for colour, count in zip(mask.shown_colours.tolist(), mask.counts[mask.used].tolist(), strict=True):
            census.colours[tuple(colour)] += count
        census.num_palettes = int(known_indices)
    else:
        used = mask.used.tolist()
        census.values.update(dict(zip(used, mask.counts[mask.used].tolist(), strict=True)))
        census.masks.update(used)
        census.sets[frozenset(used)] = 1
        if len(used) > MANY:
            census.num_changes = int((mask.values[:, 1:] != mask.values[:, :-1]).sum())
    return census


def pack(colours_c: np.ndarray) -> np.ndarray:
    """Return one number for each colour [..., 3]."""
    colours_c = colours_c.astype(np.int64)
    return colours_c[..., 0] << 16 | colours_c[..., 1] << 8 | colours_c[..., 2]


def unpack(code: int) -> Colour:
    """Return the colour of a number made by `pack`."""
    return int(code) >> 16, int(code) >> 8 & 255, int(code) & 255
