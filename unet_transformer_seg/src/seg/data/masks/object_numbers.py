"""Masks that hold the numbers of objects: 0 for the background, a number or colour of its own for each object."""

import numpy as np

from seg.classes import IGNORE_LABEL
from seg.data.masks.mask import Mask, pack

INSIDE, BORDER = 1, 2


def read_numbers(mask: Mask, ignore_value: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Return int32[h, w], the number of each pixel's object, 0 being the background, and bool[h, w], what is ignored.

    In a mask of colours each colour is one object, and black the background.
    """
    if mask.has_colours:
        colours, place_n = np.unique(pack(mask.values), return_inverse=True)
        numbers_hw = place_n.reshape(mask.values.shape[:2]).astype(np.int32) + (colours[0] > 0)
    else:
        numbers_hw = mask.values.astype(np.int32)
    ignored_hw = numbers_hw == ignore_value
    return np.where(ignored_hw, 0, numbers_hw), ignored_hw


def labels_of_objects(numbers_hw: np.ndarray, ignored_hw: np.ndarray, border: int) -> np.ndarray:
    """Return uint8[h, w]: 0 background, 1 object, 255 ignored; 2 where objects touch, if `border` is above 0.

    A pixel of an object is border if a different object is at most `border` rows and columns away.
    """
    labels_hw = np.where(numbers_hw > 0, INSIDE, 0).astype(np.uint8)
    if border:
        largest_hw = _largest_around(numbers_hw, border)
        beyond = numbers_hw.max(initial=0) + 1
        smallest_hw = beyond - _largest_around(np.where(numbers_hw, beyond - numbers_hw, 0), border)
        labels_hw[(numbers_hw > 0) & (smallest_hw < largest_hw)] = BORDER
    labels_hw[ignored_hw] = IGNORE_LABEL
    return labels_hw


def _largest_around(values_hw: np.ndarray, radius: int) -> np.ndarray:
    """Return the maximum over the square of `radius` around each pixel, first over its rows, then its columns."""
    for axis in (0, 1):
        widths = [(radius, radius) if axis == other else (0, 0) for other in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(values_hw, widths), 2 * radius + 1, axis)
        values_hw = windows.max(-1)
    return values_hw
