"""Shows the words of strangers without harm.

The name of a file and a text in it may hold characters that command the terminal, and a few bytes of YAML a value of
a million digits.
"""

import re
import reprlib
import unicodedata
from typing import Any

MAX_SHOWN = 120
"""Characters of a value, or of a text, in a message."""

HALF_CHARACTER = re.compile("[\\ud800-\\udfff]")
"""Half of a surrogate pair, which JSON may hold and UTF-8 cannot."""

HARMFUL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""What commands a terminal, breaks a line, turns the direction of writing, or is half a character."""


def shown(value: Any) -> str:
    """Return `repr(value)`, cut off where it is long, its control characters escaped."""
    return _SHOWN.repr(value)


def is_printable(text: Any) -> bool:
    """Return whether `text` is a string without control characters and surrogates."""
    return isinstance(text, str) and not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


def escaped(text: str) -> str:
    """Return a text as it is, but cut off where it is long, and its control characters escaped."""
    kept = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in kept)


def harmless(text: str, kept: str = "\n\t") -> str:
    """Return a text of any length with the harmful characters escaped, but for those of `kept`."""
    return HARMFUL.sub(lambda found: found[0] if found[0] in kept else repr(found[0])[1:-1], text)


def indented(text: str) -> str:
    """Return a message whose further lines are set in: a line that a file's name begins cannot pass for one of ours."""
    first, *others = text.split("\n")
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in others)])


def printable(text: str) -> str:
    """Return the text with what would steer a terminal written out, as a name of a file may hold it."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class _Shown(reprlib.Repr):
    """Looks two levels deep: with the aliases of YAML a small file can describe a huge value."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, MAX_SHOWN, MAX_SHOWN

    def repr_int(self, value: int, level: int) -> str:
        """Return the digits; Python refuses to make them of a number that is too long."""
        return repr(value) if value.bit_length() < 300 else f"a whole number of {value.bit_length()} bits"


_SHOWN = _Shown()
