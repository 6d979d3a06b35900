"""What all kinds of manifests have in common: entries, and messages for lines that cannot be used.

A reader goes through a whole manifest. What a line gets wrong becomes a problem that names file and line; it does
not stop the reader, so that one look shows all of them.
"""

import dataclasses
import math
import unicodedata
from pathlib import Path
from typing import Any

from asr.errors import UserError
from asr.files import decoded, read_bounded
from asr.untrusted import escaped, shown

MAX_MANIFEST_BYTES = 1 << 32

MAX_NAME_CHARACTERS = 1024
"""Of an utterance's name or path. Messages hold them; Linux has no path of more than 4,096 bytes."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One utterance of a manifest.

    Attributes:
        name: unique in its split.
        path: sound file.
        text: what is said, not empty.
        where: file and line, for messages.
        stated_s: length in seconds as the manifest says; None where it does not.
    """

    name: str
    path: Path
    text: str
    where: str
    stated_s: float | None = None


@dataclasses.dataclass
class Reading:
    """What was read so far.

    Attributes:
        entries: lines that can be used.
        problems: a message for each line that cannot.
    """

    entries: list[Entry] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self._lines: dict[str, str] = {}

    def add(self, name: str, path: Path, text: str, where: str, stated_s: float | None = None) -> None:
        """Take an entry in, or note why it cannot be used: its name is empty or taken, its text empty."""
        if "\0" in str(path) or not _is_unicode(f"{name}{path}{text}"):
            self.problems.append(f"{where}: characters that no file name or text can have (NUL or half a character)")
        elif bad := next((c for c in f"{name}{path}" if unicodedata.category(c) == "Cc"), None):
            self.problems.append(f"{where}: the control character {bad!r} in a name or a path")
        elif max(len(name), len(str(path))) > MAX_NAME_CHARACTERS:
            self.problems.append(
                f"{where}: a name or path that is too long, more than {MAX_NAME_CHARACTERS} characters"
            )
        elif not name:
            self.problems.append(f"{where}: the name of the utterance is empty")
        elif name in self._lines:
            self.problems.append(f"{where}: the utterance {shown(name)} stands in {self._lines[name]} already")
        elif not text.strip():
            self.problems.append(f"{where}: the text of {shown(name)} is empty")
        else:
            self.entries.append(Entry(name, path, text, where, stated_s))
        self._lines.setdefault(name, where)


def read_lines(path: Path, expected: str) -> list[tuple[int, str]]:
    """Return (line number, text) of the lines of a UTF-8 file that are not blank.

    Args:
        path: the file.
        expected: what it should be, for messages.

    Raises:
        UserError: a file that is missing, is no UTF-8 text, or has more than MAX_MANIFEST_BYTES.
    """
    try:
        text = decoded(path, read_bounded(path, MAX_MANIFEST_BYTES), expected)
    except OSError as error:
        raise UserError(f"{path}: expected {expected} ({error.strerror}); {contents(path.parent)}") from None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _is_unicode(text: str) -> bool:
    """Return whether a text can be written as UTF-8; JSON may hold halves of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_seconds(value: Any) -> float:
    """Return a stated length as a number.

    Raises:
        ValueError: it is none, or not above 0.
    """
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected seconds above 0, found {shown(value)}")
    return seconds


def contents(folder: Path) -> str:
    """Return what a folder holds, in words."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(escaped(f"{entry.name}/" if entry.is_dir() else entry.name) for entry in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{folder} holds {', '.join(names[:12]) or 'nothing'}{more}"
