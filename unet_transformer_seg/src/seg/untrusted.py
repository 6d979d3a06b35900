"""Shows untrusted text safely, and turns untrusted names into file names inside their folder.

A file name or a text may contain terminal control characters, and a few bytes of YAML may hold a number of a million
digits.
"""

import re
import reprlib
import unicodedata
from pathlib import Path
from typing import Any

from seg.errors import UserError

MAX_SHOWN = 120  # longest value or text in a message, in characters

HALF_CHARACTER = re.compile("[\\ud800-\\udfff]")
"""Half of a surrogate pair: allowed in JSON, impossible in UTF-8."""

HARMFUL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""Control characters, line separators, bidirectional overrides and lone surrogates."""


def shown(value: Any) -> str:
    """Return `repr(value)`, truncated, with control characters escaped."""
    return _SHOWN.repr(value)


def is_printable(text: Any) -> bool:
    """Return whether `text` is a string without control characters and surrogates."""
    return isinstance(text, str) and not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


def escaped(text: str) -> str:
    """Return a text truncated, with control characters escaped."""
    kept = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in kept)


def harmless(text: str, kept: str = "\n\t") -> str:
    """Return a text of any length with its harmful characters escaped, except those in `kept`."""
    return HARMFUL.sub(lambda match: match[0] if match[0] in kept else repr(match[0])[1:-1], text)


def indented(text: str) -> str:
    """Return a message with its continuation lines indented, so that a file name cannot fake a line of output."""
    first, *rest = text.split("\n")
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in rest)])


class _Shown(reprlib.Repr):
    """Looks two levels deep: with YAML aliases a small file can describe a huge value."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, MAX_SHOWN, MAX_SHOWN

    def repr_int(self, value: int, level: int) -> str:
        """Return the digits, or the size of a number that is too long for Python to print."""
        return repr(value) if value.bit_length() < 300 else f"a whole number of {value.bit_length()} bits"


_SHOWN = _Shown()


def safe_path(name: str) -> str:
    """Return a relative path like an untrusted one with "/" that is not hidden and stays inside its folder.

    Leading dots, control characters and lone surrogates become underscores.
    """
    parts = [HARMFUL.sub("_", part) for part in name.split("/") if part]
    return "/".join("_" * (len(part) - len(rest := part.lstrip("."))) + rest for part in parts) or "_"


def name_key(name: str) -> str:
    """Return a key that is equal for names that are the same on some file system: case and composition are ignored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_inside(folder: Path, path: Path) -> None:
    """Refuse a path that leaves `folder` by a link."""
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder}: a link at {path.parent} leads out of it; remove the link, or choose another folder")


def folder_links(folder: Path) -> list[Path]:
    """Return the links to folders below `folder`, which a recursive search does not follow."""
    return [path for path in sorted(folder.rglob("*")) if path.is_symlink() and path.is_dir()]
