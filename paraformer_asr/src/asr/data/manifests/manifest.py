"""What all kinds of manifests have in common: entries, and messages for lines that cannot be used.

A reader goes through a whole manifest. What a line gets wrong becomes a problem that names file and line; it does
not stop the reader, so that one look shows all of them.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr.data.manifests.entries import Entries, Entry
from asr.errors import UserError
from asr.files import open_file
from asr.untrusted import escaped, shown

__all__ = ["Entry", "Reading", "contents", "read_lines", "to_seconds"]

MAX_MANIFEST_BYTES, MAX_LINE_BYTES = 1 << 32, 1 << 24

MAX_NAME_CHARACTERS = 1024
"""Of an utterance's name or path. Messages hold them; Linux has no path of more than 4,096 bytes."""

_CONTROL = re.compile("[\x01-\x1f\x7f-\x9f]")

_IN_ARCHIVE = re.compile(r"\.ark:\d+(\[.*\])?$")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Reading:
    """What was read so far.

    Attributes:
        manifest: the file whose lines the entries are.
        entries: lines that can be used.
        problems: a message for each line that cannot.
    """

    def __init__(self, manifest: Path, root: Path):
        """Begin without a line; relative paths of sound files start from `root`."""
        self.manifest, self._root = manifest, root
        self.entries, self.problems = Entries(str(manifest)), []
        self._lines: dict[str, int] = {}
        self._paths: dict[str, int | str] = {}  # the place in `entries.paths`, or what is wrong with the path

    def where(self, line: int) -> str:
        """Return file and line, for messages."""
        return f"{self.manifest}:{line}"

    def add(self, name: str, path: str, text: str, line: int, stated_s: float | None = None) -> None:
        """Take an entry in, or note why it cannot be used: its name is empty or taken, its text empty."""
        number = self._number_of(path)
        if problem := _wrong_with(name, text) or (number if isinstance(number, str) else ""):
            self.problems.append(f"{self.where(line)}: {problem}")
        elif name in self._lines:
            earlier = self.where(self._lines[name])
            self.problems.append(f"{self.where(line)}: the utterance {shown(name)} stands in {earlier} already")
        else:
            self.entries.append(name, number, text, line, stated_s)
        self._lines.setdefault(name, line)

    def _number_of(self, path: str) -> int | str:
        """Return the place of a path among those of the entries, or what is wrong with it; looked at once."""
        if path not in self._paths:
            whole = str(self._root / path)
            number = _wrong_with_name(whole) or explain_no_path(path) or len(self.entries.paths)
            if isinstance(number, int):
                self.entries.paths.append(whole)
            self._paths[path] = number
        return self._paths[path]


def explain_no_path(source: str) -> str:
    """Return why what a manifest names as the sound is no path of a file, "" where it is one."""
    if source.endswith("|") or source.startswith("|"):
        return f"{shown(source)} is a command; commands are not run, write its sound to a file"
    if _IN_ARCHIVE.search(source):
        return f"{shown(source)} is a place in a Kaldi archive, which is not read; write its sound to a file (wav-copy)"
    if _ADDRESS.match(source):
        return f"{shown(source)} is an address; nothing is downloaded, save its sound in a file"
    return ""


def _wrong_with(name: str, text: str) -> str:
    """Return what is wrong with the name of an utterance or its text, "" for nothing."""
    if problem := _wrong_with_name(name):
        return problem
    if not _is_unicode(text):
        return "characters that no file name or text can have (NUL or half a character)"
    if not name:
        return "the name of the utterance is empty"
    return "" if text.strip() else f"the text of {shown(name)} is empty"


def _wrong_with_name(name: str) -> str:
    if "\0" in name or not _is_unicode(name):
        return "characters that no file name or text can have (NUL or half a character)"
    if bad := _CONTROL.search(name):
        return f"the control character {bad[0]!r} in a name or a path"
    if len(name) > MAX_NAME_CHARACTERS:
        return f"a name or path that is too long, more than {MAX_NAME_CHARACTERS} characters"
    return ""


def read_lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines of a UTF-8 file that are not blank.

    Args:
        path: the file.
        expected: what it should be, for messages.

    Raises:
        UserError: a file that is missing, is no UTF-8 text, has more than MAX_MANIFEST_BYTES, or a longer line than
            MAX_LINE_BYTES.
    """
    try:
        with open_file(path) as file:
            yield from _lines_of(path, file, expected)
    except OSError as error:
        raise UserError(f"{path}: expected {expected} ({error.strerror}); {contents(path.parent)}") from None


def _lines_of(path: Path, file: Any, expected: str) -> Iterator[tuple[int, str]]:
    number, num_bytes = 0, 0
    while content := file.readline(MAX_LINE_BYTES + 1):
        num_bytes += len(content)
        if len(content) > MAX_LINE_BYTES or num_bytes > MAX_MANIFEST_BYTES:
            raise UserError(
                f"{path}:{number + 1}: expected at most {MAX_LINE_BYTES} bytes in a line and {MAX_MANIFEST_BYTES} in a "
                "file, found more"
            )
        try:
            text = content.decode("utf-8-sig" if num_bytes == len(content) else "utf-8")
        except UnicodeDecodeError as error:
            line = number + content[: error.start].count(b"\r") + 1
            raise UserError(f"{path}:{line}: expected {expected} in UTF-8, found other bytes") from None
        # A file of an old Mac has no other end of a line.
        for line in text.removesuffix("\n").removesuffix("\r").split("\r"):
            number += 1
            if line.strip():
                yield number, line


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
