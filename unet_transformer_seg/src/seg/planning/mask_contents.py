"""Guesses what the masks of a data set mean by their values: classes, or the numbers of objects."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from seg.config import DataConfig
from seg.data.masks.mask import Mask, pack, unpack
from seg.errors import UserError

MAX_CLASSES = 20  # values above this many are numbers of objects, or no classes at all
SINGLE = 0.7  # share of the values that are one region each in masks of numbered objects
IGNORED = 255  # value that masks of a few classes often have where nothing is known


def guess_masks(data: DataConfig, masks: Sequence[Mask]) -> tuple[DataConfig, str]:
    """Return the settings that read masks like these, and the reason.

    Raises:
        UserError: masks without any object, or values that are neither classes nor numbers.
    """
    if any(mask.has_colours or (mask.palette is not None and mask.shown_greys is None) for mask in masks):
        return _by_colour(data, masks)
    used = [mask.used if mask.shown_greys is None or mask.depth < 8 else mask.shown_greys for mask in masks]
    values = sorted(set(np.concatenate(used).tolist()))
    if values in ([0], [255]) or not values:
        raise UserError(f"{data.root}: all {len(masks)} masks that were read hold one value, {values}: no object")
    if _are_numbers(used) or (len(values) > MAX_CLASSES and _are_blobs(masks)):
        largest = max(int(values_u[-1]) for values_u in used)
        reason = f"the masks number their objects, up to {largest:,}: one class, and objects that eval can count"
        return dataclasses.replace(data, masks="objects"), reason
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"{data.root}: the masks hold {len(values):,} values, such as {values[:8]}: too many for classes, and not "
            "the numbers of objects, each of which is one region. Write a config with data.class_names, and plan "
            "with --config"
        )
    return _by_value(data, values)


def _are_numbers(used: Sequence[np.ndarray]) -> bool:
    """Return whether the masks number objects from 1: nearly without gaps, and to a different end in each mask."""
    ends = [int(values_u[-1]) for values_u in used if values_u[-1]]
    gaps = [int(values_u[-1]) - np.count_nonzero(values_u) for values_u in used if values_u[-1]]
    # Editing removes a few objects of a mask; masks of classes lack some classes in most images, but share the last.
    compact = np.mean([gap <= 0.2 * end for gap, end in zip(gaps, ends, strict=True)])
    return max(ends) > 2 and len(set(ends)) > 2 and compact > 0.7 and np.median(ends) > 2


def _are_blobs(masks: Sequence[Mask]) -> bool:
    """Return whether most values are one connected region each, as the objects in a crop of a numbered mask."""
    from scipy import ndimage

    num_regions = []
    for mask in masks:
        numbers_hw = mask.values.astype(np.int32)
        boxes = ndimage.find_objects(numbers_hw)
        num_regions += [ndimage.label(numbers_hw[box] == n)[1] for n, box in enumerate(boxes, 1) if box]
    return bool(np.mean(np.array(num_regions) == 1) > SINGLE)


def _by_value(data: DataConfig, values: list[int]) -> tuple[DataConfig, str]:
    ignored = values[-1] == IGNORED and len(values) > 2 and values[-2] < MAX_CLASSES
    kept = values[:-1] if ignored else values
    names = ("background", "object") if len(kept) == 2 else ("background", *(f"class_{v}" for v in kept[1:]))
    data = dataclasses.replace(data, class_names=names, ignore_value=IGNORED if ignored else -1)
    reason = f"the masks hold the values {', '.join(map(str, values))}; rename the classes as you like"
    if kept != list(range(len(kept))):
        data = dataclasses.replace(data, value_map={value: label for label, value in enumerate(kept)})
    return data, reason + (f"; {IGNORED} is taken as pixels to ignore" if ignored else "")


def _by_colour(data: DataConfig, masks: Sequence[Mask]) -> tuple[DataConfig, str]:
    counts: dict[int, int] = {}
    for mask in masks:
        shown = mask.values.reshape(-1, 3) if mask.has_colours else mask.shown_colours
        for code in np.unique(pack(shown)).tolist():
            counts[code] = counts.get(code, 0) + 1
    if len(counts) <= MAX_CLASSES:
        codes = sorted(counts, key=lambda code: (code != 0, -counts[code], code))
        names = ("background", *(f"class_{number}" for number in range(1, len(codes))))
        palette = tuple(map(unpack, codes))
        data = dataclasses.replace(data, class_names=names, palette=palette)
        return data, f"the masks hold {len(codes)} colours, the first being black or the most frequent; rename them"
    if 0 in counts and all(mask.has_colours for mask in masks):
        return dataclasses.replace(data, masks="objects"), f"{len(counts):,} colours: one for each object, black around"
    raise UserError(
        f"{data.root}: the masks hold {len(counts):,} colours: too many for classes. Write a config with data.palette, "
        "and plan with --config"
    )
