"""Reads the masks of overlapping classes: a layer for each class, 0 where it is not and any other value where it is.

The layers of one file are the bands or the pages of a TIFF, those of an array, [h, w, k] or [k, h, w], or the red,
green and blue of a picture.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from seg.classes import IGNORE_LABEL
from seg.config import DataConfig
from seg.config.rules import CLASS_PLACEHOLDER
from seg.data.image_file import read_mask
from seg.data.images import array_file
from seg.data.images.array_file import check_pixels
from seg.data.images.container import naming_damage
from seg.data.images.remarks import Remark
from seg.data.images.tiff_windows import TiffWindows
from seg.data.masks.object_numbers import read_numbers
from seg.errors import UserError
from seg.files import open_file

MIDDLE = 128  # threshold that the message on lossy masks suggests


def read_class_file(path: Path, config: DataConfig, remark: Remark, page: int | None = None) -> np.ndarray:
    """Return uint8[h, w] of 0, 1 and 255, the mask file of one class, or a page of it."""
    mask = read_mask(path, config, remark, page)
    if config.masks == "objects":
        numbers_hw, ignored_hw = read_numbers(mask, config.ignore_value)
        return np.where(ignored_hw, np.uint8(IGNORE_LABEL), (numbers_hw > 0).astype(np.uint8))
    if mask.has_colours:
        raise UserError(f"{path}: its pixels are colours; the mask of one class is grey: 0 where the class is not")
    if mask.is_lossy and not config.threshold:
        raise UserError(
            f"{path}: lossy compression (JPEG or WebP) has changed its values; set data.threshold: {MIDDLE}, the "
            "lowest value of the class"
        )
    return labels_of(mask.values, config)


def read_layers(path: Path, names: Sequence[str], config: DataConfig, remark: Remark) -> np.ndarray:
    """Return uint8[h, w, k] of 0, 1 and 255, a file with a layer for each class, in the order of the classes."""
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        values = _read_tiff(path, len(names), config)
    elif suffix in array_file.SUFFIXES:
        values = _read_array(path, len(names), config)
    else:
        values = read_mask(path, config, remark).values
        if values.ndim == 2 and len(names) == 3:  # of a picture whose layers are equal
            values = np.repeat(values[..., None], 3, axis=2)
    num_layers = values.shape[2] if values.ndim == 3 else 1
    if num_layers != len(names):
        raise UserError(
            f"{path}: {num_layers} layer{'s' * (num_layers != 1)}, expected one for each of {len(names)} classes "
            f"({', '.join(names)}). If each class has a file of its own, name its place in data.masks_dir or "
            f"data.mask_suffix, for example data.masks_dir: {config.masks_dir}/{CLASS_PLACEHOLDER}"
        )
    return labels_of(values, config)


def labels_of(values: np.ndarray, config: DataConfig) -> np.ndarray:
    """Return uint8 of 0, 1 and 255: 1 from `data.threshold` on, by default where a value is not 0."""
    labels = (values >= config.threshold if config.threshold else values != 0).astype(np.uint8)
    labels[values == config.ignore_value] = IGNORE_LABEL
    return labels


def _read_array(path: Path, num_classes: int, config: DataConfig) -> np.ndarray:
    with open_file(path) as file, naming_damage(path):
        return array_file.read_array(path, file, config.max_pixels, num_classes, has_layers=True)


def _read_tiff(path: Path, num_classes: int, config: DataConfig) -> np.ndarray:
    """Return [h, w, c], the bands of the only page or the pages of one band."""
    with open_file(path) as file, naming_damage(path), tifffile.TiffFile(file, name=path.name) as tiff:
        windows = [TiffWindows(file, page) for page in itertools.islice(tiff.pages, num_classes + 1)]
        height, width, _ = windows[0].shape
        check_pixels(f"{height}×{width} pixels are more", height * width, config.max_pixels)
        if any(page.shape[:2] != (height, width) for page in windows):
            raise UserError("its pages differ in size; the layers of classes have one size")
        return np.concatenate([page[0:height, 0:width] for page in windows], axis=2)
