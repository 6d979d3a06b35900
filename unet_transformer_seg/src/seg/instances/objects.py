"""Finds the objects in a mask: connected components of a class, cut where objects touch.

Letters: h w rows and columns, n objects.
"""

import dataclasses
import importlib.util

import numpy as np

from seg.config import InstancesConfig
from seg.errors import UserError

BORDER = "border"
"""Name of the class of pixels where objects touch (`data.object_border`)."""

MAX_PIXELS = 1 << 28
"""Largest mask whose objects are counted, in pixels: it is held in memory, with about 40 bytes for each."""

COLUMNS = ("object", "class", "area", "row", "column", "top", "left", "bottom", "right")
"""Columns of the table of objects."""

# Two pixels that share a corner belong to one object.
NEIGHBOURS = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image."""

    numbers: np.ndarray  # int32[h, w], 0 for the background, 1 … n for the objects
    labels: np.ndarray  # int64[n], the class of each object
    names: tuple[str, ...]  # of the classes

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def areas(self) -> np.ndarray:
        """int64[n], pixels of each object."""
        return np.bincount(self.numbers.ravel(), minlength=len(self) + 1)[1:]

    def of_class(self, label: int) -> np.ndarray:
        """Return int32[h, w], the numbers of the objects of one class, the others as background."""
        return np.where(np.concatenate([[False], self.labels == label])[self.numbers], self.numbers, 0)

    def table(self) -> list[dict[str, int | float | str]]:
        """Return a row of `COLUMNS` for each object: its class, area in pixels, centroid, and box.

        Rows and columns are counted from 0 at the centre of the first pixel; bottom and right are the first beyond.
        """
        from scipy import ndimage

        numbers = range(1, len(self) + 1)
        centres = ndimage.center_of_mass(self.numbers > 0, self.numbers, numbers) if numbers else []
        boxes = ndimage.find_objects(self.numbers, len(self))
        columns = zip(numbers, self.labels.tolist(), self.areas.tolist(), centres, boxes, strict=True)
        return [
            dict(
                zip(
                    COLUMNS,
                    (number, self.names[label], area, round(float(y), 2), round(float(x), 2))
                    + (rows.start, across.start, rows.stop, across.stop),
                    strict=True,
                )
            )
            for number, label, area, (y, x), (rows, across) in columns
        ]


def find_objects(labels_hw: np.ndarray, settings: InstancesConfig, names: tuple[str, ...]) -> Objects:
    """Return the objects in a mask of class numbers, each class by itself, numbered from the top.

    Args:
        labels_hw: uint8[h, w], or uint8[h, w, 1] of a single class, where 1 is inside.
        settings: how objects are found. `watershed` cuts a component at the necks between the peaks of its distance
            from the background, which lie at least `seed_distance` apart.
        names: of the classes. Pixels of a class called `border` go to the nearest object.

    Raises:
        UserError: a class without a name of the table, a mask too large, or an extra that is not installed.
    """
    check_countable(labels_hw.size)
    require_extra(settings)
    is_single = labels_hw.ndim == 3
    if is_single and len(names) > 1:
        raise UserError("instances.method: objects of overlapping classes are not counted; set instances.method=none")
    numbers_hw, labels = np.zeros(labels_hw.shape[:2], np.int32), []
    borders_hw = labels_hw == names.index(BORDER) if BORDER in names else None
    for label in counted_classes(settings, names):
        inside_hw = labels_hw[..., 0] == 1 if is_single else labels_hw == label
        own_hw = _split(inside_hw, settings)
        if borders_hw is not None:
            own_hw = _grow(own_hw, borders_hw)
        own_hw, count = _without_small(own_hw, settings.min_area)
        numbers_hw = np.where(own_hw > 0, own_hw + len(labels), numbers_hw)
        labels += [label] * count
    return Objects(numbers_hw.astype(np.int32), np.array(labels, np.int64), names)


def counted_classes(settings: InstancesConfig, names: tuple[str, ...]) -> list[int]:
    """Return the classes whose objects are counted: the stated ones, else all but the first and the border's.

    A single class has no background before it, so it is counted.
    """
    if len(names) == 1:
        return [0]
    if unknown := [name for name in settings.classes if name not in names]:
        raise UserError(f"instances.classes: expected some of {', '.join(names)}, found {unknown[0]!r:.80}")
    stated = [label for label, name in enumerate(names) if name in settings.classes]
    return stated or [label for label, name in enumerate(names) if label and name != BORDER]


def check_countable(num_pixels: int) -> None:
    """Refuse an image that is too large to count its objects."""
    if num_pixels > MAX_PIXELS:
        raise UserError(
            f"{num_pixels:,} pixels are more than the {MAX_PIXELS:,} in which objects are counted; cut the image "
            "into pieces, or set instances.method=none"
        )


def require_extra(settings: InstancesConfig) -> None:
    """Refuse to count while the packages for it are not installed."""
    needed = {"components": ["scipy"], "watershed": ["scipy", "skimage"]}.get(settings.method, [])
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"instances.method: {settings.method} needs {', '.join(missing)}, not installed here: "
            "pip install 'unet-transformer-seg[instances]'"
        )


def _split(inside_hw: np.ndarray, settings: InstancesConfig) -> np.ndarray:
    """Return int[h, w], the numbers of the components, cut by the watershed if the settings say so."""
    from scipy import ndimage

    components_hw, count = ndimage.label(inside_hw, NEIGHBOURS)
    if settings.method != "watershed" or not count:
        return components_hw
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    # Smoothed, so that a rough outline has one peak.
    distance_hw = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside_hw), 1.0) * inside_hw
    peaks_n2 = peak_local_max(
        distance_hw, min_distance=settings.seed_distance, labels=components_hw, exclude_border=False
    )
    seeds_hw = np.zeros(inside_hw.shape, np.int32)
    seeds_hw[tuple(peaks_n2[np.lexsort(peaks_n2.T[::-1])].T)] = np.arange(1, len(peaks_n2) + 1)
    return watershed(-distance_hw, seeds_hw, mask=inside_hw)


def _grow(numbers_hw: np.ndarray, borders_hw: np.ndarray) -> np.ndarray:
    """Return the numbers with each border pixel given to the nearest object."""
    from scipy import ndimage

    if not numbers_hw.any():
        return numbers_hw
    rows_hw, columns_hw = ndimage.distance_transform_edt(numbers_hw == 0, return_distances=False, return_indices=True)
    return np.where(borders_hw, numbers_hw[rows_hw, columns_hw], numbers_hw)


def _without_small(numbers_hw: np.ndarray, min_area: int) -> tuple[np.ndarray, int]:
    """Return the objects of at least `min_area` pixels, renumbered from 1, and their number."""
    areas_n = np.bincount(numbers_hw.ravel())
    kept_n = areas_n >= max(min_area, 1)
    kept_n[0] = False
    return np.where(kept_n, np.cumsum(kept_n), 0)[numbers_hw], int(kept_n.sum())
