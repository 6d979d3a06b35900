"""Counts the values and colours of one mask or of a whole data set."""

import dataclasses
from collections import Counter

import numpy as np

from seg.classes import Colour
from seg.data.masks.mask import Mask

MAX_KEPT = 4096
"""Largest number of values, colours or sets that are kept; a photograph has more."""

MANY = 20
"""Number of values or colours that masks drawn with one for each class rarely exceed."""


@dataclasses.dataclass
class Census:
    """What masks hold."""

    # Value → pixels, of grey masks and of palettes read by index
    values: Counter[int] = dataclasses.field(default_factory=Counter)
    masks: Counter[int] = dataclasses.field(default_factory=Counter)  # value → masks
    # Set of the values of a mask → masks with exactly these
    sets: Counter[frozenset[int]] = dataclasses.field(default_factory=Counter)
    colours: Counter[Colour] = dataclasses.field(default_factory=Counter)  # colour → pixels, of the remaining masks
    num_inverted: int = 0  # masks in whose files 0 is white
    num_lossy: int = 0  # masks with lossy compression
    num_changes: int = 0  # pixels that differ from their left neighbour, in masks of more than `MANY` values
    num_palettes: int = 0  # masks with a palette that were read by colour although their indices are classes

    def add(self, other: "Census") -> None:
        """Add the counts of other masks."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, int):
                setattr(self, field.name, mine + theirs)
            else:
                mine.update({key: count for key, count in theirs.items() if key in mine or len(mine) < MAX_KEPT})


def take_census(mask: Mask, by_colour: bool = False, known_indices: bool = False) -> Census:
    """Return the census of one mask; `by_colour` counts the colours of its palette instead of the indices.

    `known_indices` states that all its indices are classes.
    """
    census = Census(num_inverted=int(mask.is_inverted), num_lossy=int(mask.is_lossy))
    if mask.has_colours:
        codes, counts = np.unique(pack(mask.values), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MAX_KEPT]
        census.colours.update({unpack(codes[i]): int(counts[i]) for i in order})
    elif by_colour and mask.shown_colours is not None:
        for colour, count in zip(mask.shown_colours.tolist(), mask.counts[mask.used].tolist(), strict=True):
            census.colours[tuple(colour)] += count
        census.num_palettes = int(known_indices)
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
    """Return the colour of a number made by `pack`."""
    return int(code) >> 16, int(code) >> 8 & 255, int(code) & 255
