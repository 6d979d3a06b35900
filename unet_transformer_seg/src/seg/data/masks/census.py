"""Counts of the values and colours that masks hold, of one mask or of a whole data set."""

import dataclasses
from collections import Counter

import numpy as np

from seg.classes import Colour
from seg.data.masks.mask import Mask

MAX_KEPT = 4096
"""Values, colours or sets of values that are kept; a photograph has more."""

MANY = 20
"""More values or colours than most masks have, if they were drawn with one for each class."""


@dataclasses.dataclass
class Census:
    """What masks hold.

    Attributes:
        values: value → pixels, of grey masks, and of palettes that are read by position.
        masks: value → masks.
        sets: the values of one mask → masks that have just these.
        colours: colour → pixels, of the others.
        num_masks: masks counted.
        num_inverted: of these, masks in whose files 0 is white.
        num_lossy: masks compressed with loss.
        num_changes: pixels whose left neighbour has another value, in masks of more values than `MANY`.
        num_palettes: masks with a palette that were read by its colours, although their positions are known values.
    """

    values: Counter[int] = dataclasses.field(default_factory=Counter)
    masks: Counter[int] = dataclasses.field(default_factory=Counter)
    sets: Counter[frozenset[int]] = dataclasses.field(default_factory=Counter)
    colours: Counter[Colour] = dataclasses.field(default_factory=Counter)
    num_masks: int = 0
    num_inverted: int = 0
    num_lossy: int = 0
    num_changes: int = 0
    num_palettes: int = 0

    def add(self, other: "Census") -> None:
        """Add the counts of other masks."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, int):
                setattr(self, field.name, mine + theirs)
            else:
                mine.update({key: count for key, count in theirs.items() if key in mine or len(mine) < MAX_KEPT})


def take_census(mask: Mask, by_colour: bool = False, known_positions: bool = False) -> Census:
    """Return the census of one mask.

    Args:
        mask: of any kind.
        by_colour: its palette's colours count, not the positions in it.
        known_positions: the positions are values that stand for classes.
    """
    census = Census(num_masks=1, num_inverted=int(mask.is_inverted), num_lossy=int(mask.is_lossy))
    if mask.has_colours:
        codes, counts = np.unique(pack(mask.values), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MAX_KEPT]
        census.colours.update({unpack(codes[i]): int(counts[i]) for i in order})
    elif by_colour and mask.shown_colours is not None:
        for colour, count in zip(mask.shown_colours.tolist(), mask.counts[mask.used].tolist(), strict=True):
            census.colours[tuple(colour)] += count
        census.num_palettes = int(known_positions)
    else:
        used = mask.used.tolist()
        census.values.update(dict(zip(used, mask.counts[mask.used].tolist(), strict=True)))
        census.masks.update(used)
        census.sets[frozenset(used)] = 1
        if len(used) > MANY:
            census.num_changes = int((mask.values[:, 1:] != mask.values[:, :-1]).sum())
    return census


def pack(colours_c: np.ndarray) -> np.ndarray:
    """Return one number for each colour [..., 3]."""
    colours_c = colours_c.astype(np.int64)
    return colours_c[..., 0] << 16 | colours_c[..., 1] << 8 | colours_c[..., 2]


def unpack(code: int) -> Colour:
    """Return the colour of a number that `pack` made."""
    return int(code) >> 16, int(code) >> 8 & 255, int(code) & 255
