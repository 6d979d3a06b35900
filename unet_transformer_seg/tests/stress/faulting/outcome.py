"""The result of a command of the fault script, and its table."""

import dataclasses
from typing import Any


class NotPossibleError(Exception):
    """What was asked for cannot be tried on this machine."""


@dataclasses.dataclass
class Outcome:
    """The result.

    Attributes:
        heads: of the table's columns.
        rows: of the table.
        failures: what should not be; one line each.
        notes: lines below the table.
        facts: all details, as JSON values.
    """

    heads: list[str]
    rows: list[list]
    failures: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def format_table(heads: list[str], rows: list[list]) -> str:
    """Return a table with columns as wide as what is in them; texts to the left, numbers to the right."""
    cells = [list(map(_text, row)) for row in rows]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    right = [all(type(row[i]) in (int, float) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in columns)
        for columns in (zip(line, widths, right, strict=True) for line in [heads, *cells])
    ]
    return "\n".join(line.rstrip() for line in lines)


def _text(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
