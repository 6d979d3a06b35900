"""Covers an image of any size with windows of one shape and blends their predictions, a band of rows at a time.

Letters: b windows of a batch, h w rows and columns, k classes; H W rows and columns of the whole image.

A prediction is least reliable at the border of a window, where half of the context is missing, so a Gaussian weights
it. The windows form a grid and the Gaussian is separable, so the weights are normalised along each axis in advance:

    p[y, x] = Σ_ij u_i[y] v_j[x] p_ij[y, x]    with    Σ_i u_i[y] = 1 for every y,    Σ_j v_j[x] = 1 for every x

So there is no accumulator of weights and no division at the end. Rows above the next row of windows are finished and
yielded: memory holds one band of the height of a window, however tall the image is.

Reference: Isensee et al., 2021 (nnU-Net), Gaussian importance weighting; σ = 1/8 of the window.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

import chex
import numpy as np

SIGMA = 1 / 8  # standard deviation of the Gaussian over the side of the window

Forward = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(windows [b, h, w, c], weights_bh, weights_bw) → probabilities times weights, float32[b, h, w, k]. As with jax,
the result may still be under way: it is read one batch later."""

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Axis:
    """The windows along one side of the image."""

    starts: np.ndarray  # int[n], first pixel of each window, ascending from 0
    # float32[n, side], weight of each pixel of each window; they sum to 1 at every pixel of the image
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Band:
    """Finished rows."""

    start: int  # first row of the image
    probabilities: np.ndarray  # float32[rows, W, k], summing to 1 over the classes

    @property
    def rows(self) -> slice:
        """The rows of the image that this band covers."""
        return slice(self.start, self.start + len(self.probabilities))


def place_windows(length: int, side: int, overlap: float) -> np.ndarray:
    """Return the first pixel of each window along an axis: evenly spaced, the first at 0, the last at the border.

    Args:
        length: pixels of the image along the axis, at least `side`.
        side: pixels of a window.
        overlap: smallest share of a window that its neighbour also covers, in [0, 1).

    Returns:
        starts: int[n], with the fewest windows that keep the overlap.
    """
    step = max(int(side * (1 - overlap)), 1)
    num_steps = -(-(length - side) // step)
    return np.arange(num_steps + 1) * (length - side) // max(num_steps, 1)


def gaussian(side: int) -> np.ndarray:
    """Return float64[side], a Gaussian: 1 in the middle, e⁻⁸ = 0.0003 at the ends, never 0."""
    offset = np.arange(side) - (side - 1) / 2
    return np.exp(-0.5 * (offset / (SIGMA * side)) ** 2)


def place_axis(length: int, side: int, overlap: float) -> Axis:
    """Return the windows along one axis with normalised weights; arguments as in `place_windows`."""
    starts = place_windows(length, side, overlap)
    bell = gaussian(side)
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += bell
    weights = np.stack([bell / total[start : start + side] for start in starts])
    return Axis(starts, weights.astype(np.float32))


def fill_up(image_hwc: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """Return the image, padded to the size of a window by repeating its last row and column."""
    missing = [max(side - length, 0) for side, length in zip(tile, image_hwc.shape[:2], strict=True)]
    if not any(missing):
        return image_hwc
    return np.pad(image_hwc, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def blend_windows(
    image_hwc: np.ndarray,
    forward: Forward,
    *,
    tile: tuple[int, int],
    overlap: float,
    batch_size: int,
    fill: Callable[[np.ndarray, tuple[int, int]], np.ndarray] = fill_up,
) -> Iterator[Band]:
    """Yield the class probabilities of an image from top to bottom, each row once, as soon as it is finished.

    Memory, besides the image and `forward`: two bands of h × W × k and two batches of predictions, in float32. For
    10,000 × 8,000 pixels, 11 classes and windows of 512² that is 0.4 GB.

    Args:
        image_hwc: [H, W, c], an array, or an image that is read window by window (`seg.data.images.large_image`).
        forward: see `Forward`; called with one shape only.
        tile: rows and columns (h, w) of a window.
        overlap: smallest share of a window that its neighbour also covers, in [0, 1).
        batch_size: windows per call; the last call is padded with copies, whose predictions are dropped.
        fill: pads an image that is smaller than the window, at the bottom and right.

    Yields:
        bands of finished rows; the caller may keep or change them.
    """
    chex.assert_rank(image_hwc, 3)
    height, width, _ = image_hwc.shape
    padded_height, padded_width = max(height, tile[0]), max(width, tile[1])
    rows, columns = place_axis(padded_height, tile[0], overlap), place_axis(padded_width, tile[1], overlap)
    answers = _answers(lambda window: fill(image_hwc[window], tile), forward, rows, columns, batch_size)

    open_hwk = None
    ends = itertools.chain(rows.starts[1:].tolist(), [padded_height])
    for top, end in zip(rows.starts.tolist(), ends, strict=True):
        for left in columns.starts.tolist():
            answer_hwk = next(answers)
            if open_hwk is None:
                open_hwk = np.zeros((tile[0], padded_width, answer_hwk.shape[-1]), np.float32)
            open_hwk[:, left : left + tile[1]] += answer_hwk
        yield Band(top, open_hwk[: min(end, height) - top, :width])
        open_hwk = _move_down(open_hwk, end - top)


def _answers(
    cut: Callable[[tuple[slice, slice]], np.ndarray], forward: Forward, rows: Axis, columns: Axis, batch_size: int
) -> Iterator[np.ndarray]:
    """Yield the weighted predictions of each window, row by row, and finally those of the copies."""
    height, width = rows.weights.shape[1], columns.weights.shape[1]

    def window(i: int, j: int) -> np.ndarray:
        top, left = rows.starts[i], columns.starts[j]
        return cut((slice(top, top + height), slice(left, left + width)))

    def compute() -> Iterator[np.ndarray]:
        places = itertools.product(range(len(rows.starts)), range(len(columns.starts)))
        while batch := list(itertools.islice(places, batch_size)):
            batch += batch[-1:] * (batch_size - len(batch))
            row_ids, column_ids = (list(ids) for ids in zip(*batch, strict=True))
            windows_bhwc = np.stack([window(i, j) for i, j in batch])
            yield forward(windows_bhwc, rows.weights[row_ids], columns.weights[column_ids])

    for answers_bhwk in one_behind(compute()):
        yield from np.asarray(answers_bhwk)


def one_behind(items: Iterator[Item]) -> Iterator[Item]:
    """Yield each item after the next one was made, so that a device computes while the host uses the last."""
    waiting = list(itertools.islice(items, 1))
    for item in items:
        yield waiting.pop()
        waiting.append(item)
    yield from waiting


def _move_down(open_hwk: np.ndarray, num_rows: int) -> np.ndarray:
    """Return a new band that starts `num_rows` further down and keeps the rows that both cover."""
    moved_hwk = np.zeros_like(open_hwk)
    moved_hwk[: len(open_hwk) - num_rows] = open_hwk[num_rows:]
    return moved_hwk
