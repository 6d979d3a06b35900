"""Predict an image of any size by overlapping tiles, and blend their probabilities with a Gaussian.

    p[y, x] = Σ_tiles g[y − top, x − left] · p_tile[y − top, x − left] / Σ_tiles g[y − top, x − left]
    g[i, j] = bell(i, rows of a tile) · bell(j, columns of a tile)
    bell(i, n) = exp( −½ · ((i − (n − 1) / 2) / (n / 8))² )

The tiles form a grid: along each axis they are evenly spaced, the first begins at 0 and the last ends at the border,
and there are as few as keep neighbours at most `step` = max(⌊side · (1 − overlap)⌋, 1) pixels apart. With
m = ⌈(length − side) / step⌉, tile n of 0 … m begins at ⌊n · (length − side) / m⌋. An image that is smaller than a tile
is filled up at the bottom and right by repeating its last row and column, and the result is cut to its size.

Letters: h w rows and columns of the image, c channels, k classes, b tiles.
"""

from collections.abc import Callable

import numpy as np


def blend_tiles(
    image_hwc: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    tile: tuple[int, int],
    overlap: float,
) -> np.ndarray:
    """Return the blended class probabilities float32[h, w, k].

    Args:
        image_hwc: [h, w, c].
        predict: tiles [b, *tile, c] → probabilities float32[b, *tile, k].
        tile: rows and columns of a tile.
        overlap: smallest share of a tile that its neighbour also covers, in [0, 1).
    """
    raise NotImplementedError
