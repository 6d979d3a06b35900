"""What a mask file holds for the labels: class numbers with a palette, values or colours of classes, or bands.

Overlapping classes have a band each, 0 or 255. A single one that overlaps with the background needs none: it is 1.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from seg.classes import IGNORE_LABEL, ClassTable, MaskValues
from seg.inference.mask_tiff import write_mask_tiff
from seg.pictures import IGNORED_COLOUR


def has_bands(classes: ClassTable) -> bool:
    """Return whether a mask has a band for each class: classes overlap, and are more than one."""
    return classes.overlapping and len(classes) > 1


def flat(labels: np.ndarray) -> np.ndarray:
    """Return [h, w]; a single class that overlaps with the background, [h, w, 1], is 1."""
    return labels[..., 0] if labels.ndim == 3 else labels


def shown_labels(
    classes: ClassTable, values: MaskValues
) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray | None, np.dtype]:
    """Return the function from labels to what a mask holds, its palette if it has one, and its dtype."""
    table = values_table(values)
    if has_bands(classes):
        return lambda labels_hwk: np.where(labels_hwk == 1, np.uint8(255), np.uint8(0)), None, np.dtype(np.uint8)
    if values:
        return lambda labels: table[flat(labels)], None, table.dtype
    return flat, palette_of(classes), table.dtype


def describe_bands(classes: ClassTable) -> str:
    """Return the names of the bands of a TIFF; "" if a mask has none."""
    names = f"bands: {', '.join(classes.names)}".encode("ascii", "backslashreplace").decode()
    return names if has_bands(classes) else ""


def write_bands(file: Path | BinaryIO, labels_hwk: np.ndarray, classes: ClassTable) -> None:
    """Write overlapping labels as a TIFF with a band for each class: 0 or 255."""
    shown, palette, dtype = shown_labels(classes, ())
    pages, shape = [[shown(labels_hwk)]], (1, *labels_hwk.shape[:2])
    write_mask_tiff(file, pages, shape, palette, dtype, [], describe_bands(classes))


def values_table(values: MaskValues) -> np.ndarray:
    """Return uint8 or uint16 [k] or [k, 3], the value or colour of each class; empty for class numbers."""
    wide = np.ndim(values) == 1 and max(values, default=0) > 255
    return np.array(values, np.uint16 if wide else np.uint8)


def palette_of(classes: ClassTable) -> np.ndarray:
    """Return uint8[256, 3], the colour of each value of an indexed mask."""
    palette = np.zeros((256, 3), np.uint8)
    # The value 0 is the background of a single class.
    first = 1 if classes.overlapping else 0
    palette[first : first + len(classes)] = classes.palette
    palette[IGNORE_LABEL] = IGNORED_COLOUR
    return palette
