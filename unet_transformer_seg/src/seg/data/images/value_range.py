"""Scales values of more than 8 bits to those that a model sees: which value is black, and which one is white.

A 16-bit file often holds the 10, 12 or 14 bits of a sensor and seldom states so. The first rule that applies counts:
  1. `data.value_range` = [black, white]; values outside are clipped.
  2. The number of bits that the file states, if its values fit.
  3. Integers have the fewest of 8, 10, 12, 14 and 16 bits that hold the largest one. Fewer than 16 is a guess, with a
     remark.
  4. Floats in 0 … 1 have that range; floats up to 16 and more are treated like integers.
  5. Anything else is refused, with the setting that reads it.
"""

import numpy as np

from seg.config import DataConfig
from seg.data.images.remarks import Note
from seg.errors import UserError

ValueRange = tuple[float, float]  # (black, white); `AUTO` leaves it to the file

AUTO: ValueRange = (0.0, 0.0)
DEPTHS = (8, 10, 12, 14, 16)
SMALLEST_WHITE = 16  # smallest maximum of floats above 1 that count as integers


def scale(
    values_hwc: np.ndarray, config: DataConfig, note: Note, stated_bits: int = 0, is_inverted: bool = False
) -> np.ndarray:
    """Return the values as `Sample.image` of a data set with this config.

    uint8 with 0 = black and 255 = white, or float32 with 0 = black and 1 = white, or with `data.normalise: image`
    float32 with mean 0 and standard deviation 1 in each channel. `is_inverted` if 0 is white in the file.
    """
    if config.normalise == "image":
        return _standardise(within(values_hwc, config)) * (-1 if is_inverted else 1)
    if config.channel_ranges:
        black_c, white_c = _ranges(values_hwc, config)
        image_hwc = ((within(values_hwc, config) - black_c) / (white_c - black_c)).astype(np.float32)
        if config.precision == "uint8":
            image_hwc = np.rint(image_hwc * 255).astype(np.uint8)
    else:
        scaled = to_bytes if config.precision == "uint8" else to_unit
        image_hwc = scaled(values_hwc, config.value_range, stated_bits, note)
    return (255 if image_hwc.dtype == np.uint8 else 1) - image_hwc if is_inverted else image_hwc


def _standardise(values_hwc: np.ndarray) -> np.ndarray:
    """Return (values − mean) / standard deviation of each channel; a channel without variation is 0."""
    mean_c, std_c = values_hwc.mean((0, 1), dtype=np.float64), values_hwc.std((0, 1), dtype=np.float64)
    return ((values_hwc - mean_c) / np.where(std_c > 0, std_c, 1)).astype(np.float32)


def within(values_hwc: np.ndarray, config: DataConfig) -> np.ndarray:
    """Return the values as floats, clipped to the ranges that the config states."""
    _extent(values_hwc)  # refuses NaN
    values_hwc = values_hwc.astype(np.float32 if values_hwc.dtype.itemsize < 4 else np.float64)
    if config.value_range != AUTO:
        return np.clip(values_hwc, *config.value_range)
    return np.clip(values_hwc, *_ranges(values_hwc, config)) if config.channel_ranges else values_hwc


def _ranges(values_hwc: np.ndarray, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return black and white of each channel of the values; grey has those of the first channel."""
    black_c, white_c = np.array(config.channel_ranges[: values_hwc.shape[-1]]).T
    return black_c, white_c


def to_bytes(values: np.ndarray, value_range: ValueRange, stated_bits: int, note: Note) -> np.ndarray:
    """Return uint8 of the same shape, 0 = black, 255 = white; values that no rule covers are refused.

    `stated_bits` is the bit depth that the file states, or 0; `note` is called with a guess, a contradiction, or
    clipped values.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint8:
        return values
    low, high = _extent(values)
    if value_range != AUTO:
        _note_range(value_range, low, high, stated_bits, note)
        return _by_range(values, value_range)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(values * values.dtype.type(255)).astype(np.uint8)
    return shift_down(values, _find_bits(values.dtype, low, high, stated_bits, note))


def to_unit(values: np.ndarray, value_range: ValueRange, stated_bits: int, note: Note) -> np.ndarray:
    """Return float32 of the same shape, 0 = black, 1 = white, by the rules of `to_bytes` and without its rounding."""
    if values.dtype in (np.bool_, np.uint8):
        return values.astype(np.float32) / (1 if values.dtype == np.bool_ else 255)
    low, high = _extent(values)
    if value_range != AUTO:
        _note_range(value_range, low, high, stated_bits, note)
        black, white = value_range
    elif values.dtype.kind == "f" and low >= 0 and high <= 1:
        return values.astype(np.float32)
    else:
        black, white = 0, (1 << _find_bits(values.dtype, low, high, stated_bits, note)) - 1
    levels = values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)
    return np.clip((levels - black) / (white - black), 0, 1).astype(np.float32)


def _find_bits(dtype: np.dtype, low: float, high: float, stated_bits: int, note: Note) -> int:
    """Return the number of bits of values from `low` to `high`, with a note on a guess or a contradiction."""
    _check_covered(dtype, low, high)
    bits = choose_bits(high, stated_bits)
    if stated_bits and bits != stated_bits:
        note("bit depth", f"it states {stated_bits} bits, but its maximum is {high:g}; read as {bits} bits")
    elif not stated_bits and bits < 16:
        guess = f"{dtype} values up to {high:g} are read as {bits} bits, with {(1 << bits) - 1} as white"
        note("bit depth", f"{guess}. If white is another value, such as 65535, set data.value_range=[0,65535]")
    return bits


def largest_value(values: np.ndarray) -> float | None:
    """Return the maximum if it decides the number of bits (rules 3 and 4), else None; errors as `to_bytes`."""
    if values.dtype in (np.bool_, np.uint8):
        return None
    low, high = _extent(values)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return None
    _check_covered(values.dtype, low, high)
    return high


def choose_bits(largest: float, stated_bits: int = 0) -> int:
    """Return the number of bits of values up to `largest`: as stated, or the fewest usual ones."""
    if largest < 1 << stated_bits and stated_bits >= 8:
        return stated_bits
    return next(bits for bits in DEPTHS if largest < 1 << bits)


def shift_down(values: np.ndarray, bits: int) -> np.ndarray:
    """Return the upper 8 of `bits` bits."""
    if values.dtype.kind != "f":
        return (values >> (bits - 8)).astype(np.uint8)
    scaled = values / (1 << (bits - 8))
    return np.minimum(np.rint(scaled) if bits == 8 else scaled, 255).astype(np.uint8)


def _check_covered(dtype: np.dtype, low: float, high: float) -> None:
    """Refuse a range that no rule covers."""
    if low < 0 or high > 65535 or (dtype.kind == "f" and high < SMALLEST_WHITE):
        raise UserError(
            f"{dtype} values from {low:g} to {high:g}; which ones are black and white? "
            f"To show all of them set data.value_range=[{low:g},{high:g}]; data.range=percentiles takes both from the "
            "training images"
        )


def _extent(values: np.ndarray) -> tuple[float, float]:
    low, high = values.min().item(), values.max().item()
    if not (np.isfinite(low) and np.isfinite(high)):
        count = np.count_nonzero(~np.isfinite(values))
        raise UserError(f"{count} of {values.size} values are NaN or infinite; replace them by numbers")
    return low, high


def _note_range(value_range: ValueRange, low: float, high: float, stated_bits: int, note: Note) -> None:
    """Note values that a stated range clips or darkens, and a file that states another range."""
    black, white = value_range
    setting = f"= [{black:g}, {white:g}]"
    if low < black or high > white:
        note("value range", f"its values {low:g} … {high:g} are clipped to data.value_range {setting}")
    elif (high - black) * 256 < white - black:
        note("value range", f"its values {low:g} … {high:g} are all black in data.value_range {setting}")
    elif stated_bits and white != (1 << stated_bits) - 1:
        note("value range", f"it states {stated_bits} bits; data.value_range {setting} is followed")


def _by_range(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Return the values between black and white in 256 steps."""
    black, white = value_range
    clipped = np.clip(values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64), black, white)
    if values.dtype.kind != "f" and white - black >= 255:  # as many steps as `shift_down`
        return ((clipped - black) * (256 / (white - black + 1))).astype(np.uint8)
    return np.rint((clipped - black) * (255 / (white - black))).astype(np.uint8)
