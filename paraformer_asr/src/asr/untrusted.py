"""What files from strangers need: bytes read within a bound, and their words shown in a message without harm.

A name in a folder may stand for a device that never ends or a pipe that nobody writes to; a text may hold characters
that command the terminal, and a few bytes of YAML a value of a million digits.
"""

import os
import reprlib
import stat
from pathlib import Path
from typing import Any

from asr.errors import UserError

MAX_SHOWN = 120
"""Characters of a value, or of a text, in a message."""


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a file.

    Args:
        path: of the file.
        max_bytes: more than these are not read.

    Raises:
        OSError: it cannot be read.
        UserError: naming the file: a pipe or a device, or more than `max_bytes`.
    """
    try:
        # A pipe would make us wait until somebody opens its other end.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError:  # NUL, or half a character
        raise UserError(f"{escaped(str(path))}: no file can have this name") from None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{path}: expected a file, found a pipe or a device")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"{path}: expected at most {max_bytes} bytes, found more")
    return content


def decoded(path: Path, content: bytes, expected: str) -> str:
    r"""Return the text of a file in UTF-8, a mark of the byte order left out, the ends of lines as `\n`.

    Args:
        path: of the file, for the message.
        content: of the file.
        expected: what it should be, for the message.

    Raises:
        UserError: naming the file and the line with other bytes.
    """
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: expected {expected} in UTF-8, found other bytes") from None


def shown(value: Any) -> str:
    """Return `repr(value)`, cut off where it is long, its control characters escaped."""
    return _SHOWN.repr(value)


def escaped(text: str) -> str:
    """Return a text as it is, but cut off where it is long, and its control characters escaped."""
    kept = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in kept)


class _Shown(reprlib.Repr):
    """Looks two levels deep: with the aliases of YAML a small file can describe a huge value."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, MAX_SHOWN, MAX_SHOWN

    def repr_int(self, value: int, level: int) -> str:
        """Return the digits; Python refuses to make them of a number that is too long."""
        return repr(value) if value.bit_length() < 300 else f"a whole number of {value.bit_length()} bits"


_SHOWN = _Shown()
