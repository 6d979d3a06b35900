"""The classes that a data set distinguishes: their names, colours, and the label that is left out."""

import colorsys
import dataclasses
import json
from pathlib import Path

from seg.errors import UserError

IGNORE_LABEL = 255
"""Label of pixels that count nowhere: not in the loss, not in a metric. Files may use another value for
it (`data.ignore_value`); data sets translate it to this one."""

MAX_CLASSES = 255


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """Names and colours of the classes `0 … K-1`.

    Attributes:
        names: K class names; the position is the label.
        palette: K colours, each (red, green, blue) in 0…255.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self):
        if not 2 <= len(self.names) <= MAX_CLASSES:
            raise UserError(f"expected 2 to {MAX_CLASSES} classes, found {len(self.names)}: {self.names}")
        if len(self.palette) != len(self.names):
            raise UserError(f"expected one colour for each of {len(self.names)} classes, found {len(self.palette)}")
        if any(len(colour) != 3 or not all(0 <= v <= 255 for v in colour) for colour in self.palette):
            raise UserError(f"expected colours of three values in 0…255, found {self.palette}")

    def __len__(self) -> int:
        return len(self.names)

    def save(self, path: Path) -> None:
        """Write the table as JSON, to be read by `load_class_table`."""
        path.write_text(json.dumps({"names": self.names, "palette": self.palette}, indent=1) + "\n")


def make_class_table(names: tuple[str, ...], palette: tuple[tuple[int, int, int], ...] = ()) -> ClassTable:
    """Return the table for `names`, with evenly spaced hues where no palette is given."""
    return ClassTable(tuple(names), tuple(tuple(c) for c in palette) or default_palette(len(names)))


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Return `num_classes` distinguishable colours: dark grey, then hues spaced evenly around the circle."""
    colours = [(60, 60, 60)]
    for i in range(num_classes - 1):
        rgb = colorsys.hsv_to_rgb(i / max(num_classes - 1, 1), 0.75, 0.95 if i % 2 == 0 else 0.75)
        colours.append(tuple(round(255 * v) for v in rgb))
    return tuple(colours[:num_classes])


def load_class_table(path: Path) -> ClassTable:
    """Read a table that `ClassTable.save` wrote.

    Raises:
        UserError: the file is missing or is not such a table.
    """
    try:
        content = json.loads(path.read_text())
        return ClassTable(tuple(content["names"]), tuple(tuple(c) for c in content["palette"]))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a class table with 'names' and 'palette' ({error})") from error
