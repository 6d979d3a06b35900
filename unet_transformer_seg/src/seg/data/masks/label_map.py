"""Maps the content of a mask file to the labels 0 … K-1 and 255."""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import numpy as np

from seg.classes import IGNORE_LABEL, MAX_MASK_VALUE, Colour
from seg.data.masks.advice import MaskClasses, UnknownValuesError
from seg.data.masks.mask import Mask, pack, take_census
from seg.data.masks.object_numbers import labels_of_objects, read_numbers
from seg.errors import UserError

UNKNOWN = -1
CHOOSE = (
    "If the values decide, set data.read_masks_by: value. If the colours of data.palette decide, set "
    "data.read_masks_by: colour"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """The labels of a mask."""

    labels: np.ndarray  # uint8[h, w]
    # What decided: its values, the greys that a viewer shows, its colours, or the numbers of its objects
    by: Literal["value", "grey", "colour", "objects"]
    differs: bool = False  # the file's values would have given different labels than its colours


class LabelMap(MaskClasses):
    """The classes of a folder, and the label of each mask value or colour."""

    def read(self, mask: Mask, path: Path) -> Reading:
        """Return the labels of a mask, and what they were read from.

        Stated colours decide for masks with colours or a palette, values for all others. Where the values are not
        classes, the greys that a viewer shows are tried (of 1 bit: 0 and 255), then the stated colours. An error counts
        the values or colours without a class, with a remedy.
        """
        if self.settings.masks == "objects":
            numbers = read_numbers(mask, self.settings.ignore_value)
            return Reading(labels_of_objects(*numbers, self.settings.object_border), "objects")
        if mask.has_colours:
            labels_hw, by, differs = self._from_colours(mask.values), "colour", False
        else:
            labels_u, by, differs = self._labels_of_used(mask, path)
            table = np.full(len(mask.counts), UNKNOWN, np.int16)
            table[mask.used] = labels_u
            labels_hw = table[mask.values]
        if (labels_hw == UNKNOWN).any():
            known_indices = not mask.has_colours and not (self._labels_of(mask.used) == UNKNOWN).any()
            census = take_census(mask, by_colour=by == "colour", known_indices=known_indices)
            raise UnknownValuesError(path, census, self)
        return Reading(labels_hw.astype(np.uint8), by, differs)

    def _labels_of_used(self, mask: Mask, path: Path) -> tuple[np.ndarray, Literal["value", "grey", "colour"], bool]:
        """Return int16[u], the label or UNKNOWN of each used value, what decided, and whether the colours differ."""
        if self.settings.threshold:
            greys_u = mask.used if mask.shown_greys is None else mask.shown_greys
            labels_u = (greys_u >= self.settings.threshold).astype(np.int16)
            labels_u[self._labels_of(mask.used) == IGNORE_LABEL] = IGNORE_LABEL
            return labels_u, "value" if mask.shown_greys is None else "grey", False
        by = {"value": self._labels_of(mask.used)}
        if mask.shown_greys is not None:
            by["grey"] = self._labels_of(mask.shown_greys)
        if self.by_colour and mask.shown_colours is not None:
            by["colour"] = self._labels_of_colours(mask.shown_colours)
        how = self.settings.read_masks_by
        if how == "colour":
            return by.get("colour", np.full(len(mask.used), UNKNOWN, np.int16)), "colour", False
        if how == "auto" and mask.palette is not None and "colour" in by:
            # The ignored index often has no colour of its own, but the black that pads palettes.
            is_free = (by["colour"] == UNKNOWN) | self._is_in_order(mask.palette)
            by["colour"][(by["value"] == IGNORE_LABEL) & is_free] = IGNORE_LABEL
            self._check_shared_colours(mask, by["value"], path)
            differs = (by["colour"] != by["value"]) & (by["value"] != UNKNOWN)
            return by["colour"], "colour", bool(differs.any())
        complete = [name for name, labels_u in by.items() if not (labels_u == UNKNOWN).any()]
        if how == "value":
            complete = [name for name in complete if name != "colour"]
        first = complete[0] if complete else "value"
        if "colour" in complete and (by[first] != by["colour"]).any():
            place = int(np.flatnonzero(by[first] != by["colour"])[0])
            value, colour = int(mask.used[place]), tuple(mask.shown_colours[place].tolist())
            names = {IGNORE_LABEL: "ignored"} | dict(enumerate(self.classes.names))
            raise UserError(
                f"{path}: its value {value} means {names[int(by[first][place])]}, but the colour {colour} in which "
                f"viewers show it means {names[int(by['colour'][place])]}. {CHOOSE}"
            )
        return by[first], first, False

    def _is_in_order(self, palette: np.ndarray) -> bool:
        """Return whether the palette has the stated colours at the indices of all classes."""
        indices = [value for value, label in self.by_value.items() if label != IGNORE_LABEL]
        if not indices or max(indices) >= len(palette):
            return False
        return bool((self._labels_of_colours(palette[indices]) == self._labels_of(np.array(indices))).all())

    def _check_shared_colours(self, mask: Mask, by_value_u: np.ndarray, path: Path) -> None:
        """Refuse a palette that gives two classes one colour: reading it by colour would merge them."""
        first: dict[Colour, int] = {}
        for place in np.flatnonzero((by_value_u != UNKNOWN) & (by_value_u != IGNORE_LABEL)).tolist():
            colour = tuple(mask.shown_colours[place].tolist())
            other = first.setdefault(colour, place)
            if by_value_u[place] != by_value_u[other]:
                raise UserError(
                    f"{path}: indices {mask.used[other]} and {mask.used[place]} of its palette are different classes, "
                    f"but both have the colour {colour}. {CHOOSE}"
                )

    def _labels_of(self, values_u: np.ndarray) -> np.ndarray:
        """Return int16[u], UNKNOWN for a value without a class."""
        return self._table[values_u]

    @functools.cached_property
    def _table(self) -> np.ndarray:
        table = np.full(MAX_MASK_VALUE + 1, UNKNOWN, np.int16)
        for value, label in self.by_value.items():
            table[value] = label
        return table

    def _labels_of_colours(self, colours_u3: np.ndarray) -> np.ndarray:
        """Return int16[u], UNKNOWN for a colour without a class."""
        return np.array([self.by_colour.get(tuple(colour), UNKNOWN) for colour in colours_u3.tolist()], np.int16)

    def _from_colours(self, values_hwc: np.ndarray) -> np.ndarray:
        """Return int16[h, w], UNKNOWN for a colour without a class."""
        known = sorted((int(pack(np.array(colour))), label) for colour, label in self.by_colour.items())
        if not known or self.settings.read_masks_by == "value" or self.settings.threshold:
            return np.full(values_hwc.shape[:2], UNKNOWN, np.int16)
        codes_n, labels_n = np.array(known, np.int64).T
        codes_hw = pack(values_hwc)
        place_hw = np.minimum(np.searchsorted(codes_n, codes_hw), len(codes_n) - 1)
        return np.where(codes_n[place_hw] == codes_hw, labels_n[place_hw], UNKNOWN)
