"""The exact outlines of a region as polygons along the edges of its pixels.

A vertex is a corner of the outline: a point of the grid around which 1 or 3 of the four pixels belong to the region, or
two that touch only there, which counts as two vertices. In each row of the grid the vertices pair up from left to right
into horizontal edges, and in each column from top to bottom into vertical ones. So every vertex has one edge of either
kind, and following them in turn closes every ring.

Pixels that touch only at a corner belong to different polygons (4-connected).
"""

import numpy as np

Ring = list[list[int]]
"""[x, y] of each vertex, the first repeated at the end; x to the right and y down, in pixels."""


def find_polygons(mask_hw: np.ndarray) -> list[list[Ring]]:
    """Return the polygons of a region, each its outer ring and then its holes.

    Args:
        mask_hw: bool[h, w], the region.

    Returns:
        rings as GeoJSON orders them: by the shoelace formula an outer ring has a positive area, a hole a negative one.
    """
    rows, columns = np.flatnonzero(mask_hw.any(1)), np.flatnonzero(mask_hw.any(0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    padded_hw = np.pad(mask_hw[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    return _Outlines(padded_hw, int(left) - 1, int(top) - 1).polygons()


class _Outlines:
    """Rings of a region whose border pixels are empty; `left` and `top` are added to its coordinates."""

    def __init__(self, padded_hw: np.ndarray, left: int, top: int):
        self._padded_hw, self._left, self._top = padded_hw, left, top
        y, x, is_falling = _vertices(padded_hw)
        self._x, self._y, self._stride = x, y, padded_hw.shape[0] + 1
        # The two vertices at a point where pixels touch: the first has the edge to its left, the second that to its
        # right. Pixels at the top left and bottom right: the first also has the edge above. Else it has that below.
        order = np.lexsort((np.arange(len(x)) * np.where(is_falling, 1, -1), y, x))
        self._column_keys, self._column_order = (x * self._stride + y)[order], order
        self._across, self._along = _partners(np.arange(len(x))), _partners(order)

    def polygons(self) -> list[list[Ring]]:
        across, along, ring_of = self._across.tolist(), self._along.tolist(), [-1] * len(self._x)
        rings, starts = [], []
        for start in range(len(ring_of)):
            if ring_of[start] >= 0:
                continue
            ring, vertex = [], start
            while ring_of[vertex] < 0:
                other = across[vertex]
                ring_of[vertex] = ring_of[other] = len(rings)
                ring += [vertex, other]
                vertex = along[other]
            rings.append(ring)
            starts.append(start)
        return self._grouped(rings, starts, ring_of)

    def _grouped(self, rings: list[list[int]], starts: list[int], ring_of: list[int]) -> list[list[Ring]]:
        """Return each outer ring with its holes.

        The first vertex of a ring is its top left one. Below and right of it is the region, or else a hole.
        """
        xs, ys = (self._x + self._left).tolist(), (self._y + self._top).tolist()
        is_outer = self._padded_hw[self._y[starts], self._x[starts]]
        polygons: list[list[Ring]] = []
        polygon_of: list[int] = []  # of each ring; a ring lies below or right of the one that it is found from
        for ring, start, outer in zip(rings, starts, is_outer.tolist(), strict=True):
            points = [[xs[vertex], ys[vertex]] for vertex in (*ring, ring[0])]
            if outer:
                polygon_of.append(len(polygons))
                polygons.append([points])
            else:
                polygon_of.append(polygon_of[ring_of[self._edge_left_of(start)]])
                polygons[polygon_of[-1]].append(points[::-1])
        return polygons

    def _edge_left_of(self, start: int) -> int:
        """Return a vertex of the vertical edge at which the pixels above a hole begin."""
        row, column = int(self._y[start]) - 1, int(self._x[start])
        edge = int(np.flatnonzero(~self._padded_hw[row, : column + 1])[-1]) + 1
        return int(self._column_order[np.searchsorted(self._column_keys, edge * self._stride + row, "right") - 1])


def _vertices(padded_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y, x and whether pixels touch at the top left and bottom right, of each vertex by rows."""
    above_left, above, left, here = padded_hw[:-1, :-1], padded_hw[:-1, 1:], padded_hw[1:, :-1], padded_hw[1:, 1:]
    is_corner = above_left ^ above ^ left ^ here
    touches = (above_left == here) & (above == left) & (above_left != above)
    y, x = np.nonzero(is_corner | touches)
    number = np.where(touches[y, x], 2, 1)
    return np.repeat(y + 1, number), np.repeat(x + 1, number), np.repeat(here[y, x] & touches[y, x], number)


def _partners(order: np.ndarray) -> np.ndarray:
    """Return the other end of the edge of each vertex, where consecutive pairs of `order` share an edge."""
    partners = np.empty_like(order)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners
