"""The classes of a data set: their names and colours, and the label of ignored pixels."""

import colorsys
import dataclasses
import json
from pathlib import Path
from typing import Any

from seg.errors import UserError
from seg.files import Reader, read_bounded, replace_json
from seg.untrusted import is_printable

IGNORE_LABEL = 255
"""Label of pixels that neither loss nor metrics count. Data sets translate a file's `data.ignore_value` to it."""

MAX_CLASSES = 255

MAX_MASK_VALUE = (1 << 16) - 1

Colour = tuple[int, int, int]  # (red, green, blue), each 0…255

MaskValues = tuple[int, ...] | tuple[Colour, ...]  # value, or colour, of each class in masks

MAX_JSON_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """Names and colours of the classes `0 … K-1`; a single class overlaps with what is not named, the background."""

    names: tuple[str, ...]  # K class names; the index is the label
    palette: tuple[Colour, ...]  # K colours, each (red, green, blue) in 0…255
    mask_values: MaskValues = ()  # value or colour of each class in the masks of its data set; empty if it is the label
    overlapping: bool = False  # a pixel may have several classes or none; else it has exactly one

    def __post_init__(self):
        fewest = 1 if self.overlapping else 2
        if not fewest <= len(self.names) <= MAX_CLASSES:
            raise UserError(f"expected {fewest} to {MAX_CLASSES} classes, found {len(self.names)}: {self.names!r:.200}")
        if bad := [name for name in self.names if not is_printable(name)]:
            raise UserError(f"expected names of printable characters, found {bad[0]!r:.80}")
        if len(self.palette) != len(self.names):
            raise UserError(f"expected one colour for each of {len(self.names)} classes, found {len(self.palette)}")
        if bad := [colour for colour in self.palette if not is_colour(colour)]:
            raise UserError(f"expected colours of three integers in 0…255, found {bad[0]!r:.80}")
        values = self.mask_values
        are_greys = all(type(value) is int and 0 <= value <= MAX_MASK_VALUE for value in values)
        if len(values) not in (0, len(self.names)) or not (are_greys or all(map(is_colour, values))):
            raise UserError(
                f"expected a value 0…{MAX_MASK_VALUE} or a colour of the masks for each of {len(self.names)} classes, "
                f"found {self.mask_values!r:.200}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def save(self, path: Path) -> None:
        """Write the table as JSON, to be read by `load_class_table`."""
        content = {"names": self.names, "palette": self.palette}
        if self.mask_values:
            content["mask_values"] = self.mask_values
        if self.overlapping:
            content["overlapping"] = True
        replace_json(path, content)


def make_class_table(
    names: tuple[str, ...],
    palette: tuple[Colour, ...] = (),
    mask_values: MaskValues = (),
    *,
    overlapping: bool = False,
) -> ClassTable:
    """Return the table for `names`, by default with evenly spaced hues."""
    # Grey, the first colour, is for a background, which overlapping classes do not name.
    palette = tuple(tuple(c) for c in palette) or default_palette(len(names) + overlapping)[overlapping:]
    return ClassTable(tuple(names), palette, mask_values, overlapping)


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Return `num_classes` distinguishable colours: dark grey, then hues spaced evenly around the circle."""
    colours = [(60, 60, 60)]
    for i in range(num_classes - 1):
        rgb = colorsys.hsv_to_rgb(i / max(num_classes - 1, 1), 0.75, 0.95 if i % 2 == 0 else 0.75)
        colours.append(tuple(round(255 * v) for v in rgb))
    return tuple(colours[:num_classes])


def load_class_table(path: Path, read: Reader = read_bounded) -> ClassTable:
    """Return the table written by `ClassTable.save`; arguments as of `read_json`."""
    expected = "a class table with 'names' and 'palette'"
    content = read_json(path, expected, read)
    try:
        names, palette = content["names"], content["palette"]
        if not isinstance(names, list):
            raise TypeError("'names' is not a list")
        values = [tuple(v) if isinstance(v, list) else v for v in content.get("mask_values", [])]
        palette = tuple(tuple(colour) for colour in palette)
        return ClassTable(tuple(names), palette, tuple(values), content.get("overlapping") is True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (LookupError, TypeError) as error:
        raise UserError(f"{path}: expected {expected} ({type(error).__name__}: {error})") from None


def read_json(path: Path, expected: str, read: Reader = read_bounded) -> Any:
    """Return the content of a small, untrusted JSON file; an error says what was `expected` in it."""
    try:
        return json.loads(read(path, MAX_JSON_BYTES).decode("utf-8"))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: expected {expected} ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:  # also for undecodable bytes and endless numbers
        raise UserError(f"{path}: expected {expected} in JSON ({type(error).__name__}: {error!s:.200})") from None


def is_colour(colour: Any) -> bool:
    """Return whether `colour` is three integers in 0…255."""
    is_triple = isinstance(colour, tuple) and len(colour) == 3
    return is_triple and all(type(value) is int and 0 <= value <= 255 for value in colour)
