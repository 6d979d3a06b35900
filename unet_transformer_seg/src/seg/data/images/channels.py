"""The channels of a file as those that a model sees: transparency dropped, grey repeated, colours made grey."""

import numpy as np

from seg.data.images.remarks import Note
from seg.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in the grey value (ITU-R BT.601)


def fit_channels(values_hwc: np.ndarray, channels: int, note: Note, has_alpha: bool = False) -> np.ndarray:
    """Return the values with `channels` channels, or with one that `repeat_grey` repeats.

    Args:
        values_hwc: as in the file, of any dtype.
        channels: `data.channels`.
        note: called with what is dropped or converted.
        has_alpha: whether the last channel is transparency.

    Raises:
        UserError: a number of channels that cannot stand for the other, with the setting to type.
    """
    count = values_hwc.shape[-1]
    if count == channels:
        return values_hwc
    if channels == 3 and count == 4 and not has_alpha:
        note(
            "channels", "it has 4 channels; the first three are read as red, green and blue; data.channels=4 reads all"
        )
    kept = count - 1 if has_alpha or (channels, count) == (3, 4) else count
    if kept == 1 and channels == 3 or kept == channels:
        return values_hwc[..., :kept]
    if (kept, channels) == (3, 1):
        return to_grey(values_hwc[..., :3], note)
    number = f"{count} channel{'s' * (count > 1)}"
    raise UserError(f"{number}, expected {channels} (data.channels); a data set of these needs data.channels={count}")


def to_grey(values_hwc: np.ndarray, note: Note) -> np.ndarray:
    """Return [h, w, 1] of red, green and blue: their common value, or their luma, with a note."""
    red_hw, green_hw, blue_hw = np.moveaxis(values_hwc, -1, 0)
    is_grey_hw = (red_hw == green_hw) & (green_hw == blue_hw)
    if is_grey_hw.all():
        return values_hwc[..., :1]
    note("colours", "it has colours, which are read as grey: 0.299 red + 0.587 green + 0.114 blue")
    luma_hw = sum(weight * values_hwc[..., c].astype(np.float64) for c, weight in enumerate(LUMA))
    if values_hwc.dtype.kind != "f":
        luma_hw = np.rint(luma_hw)
    return np.where(is_grey_hw, red_hw, luma_hw.astype(values_hwc.dtype))[..., None]


def repeat_grey(image_hwc: np.ndarray, channels: int) -> np.ndarray:
    """Return the image with its single channel repeated, if the model sees several."""
    return image_hwc if image_hwc.shape[-1] == channels else np.repeat(image_hwc, channels, axis=-1)
