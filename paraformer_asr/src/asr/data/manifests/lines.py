"""Reads the lines of lists of sounds, and what a line may name as a sound: one set of rules for training and inference.

Reading is bounded, and no command is ever run.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from asr.errors import UserError
from asr.files import open_file
from asr.untrusted import escaped, shown

MAX_MANIFEST_BYTES, MAX_LINE_BYTES = 1 << 32, 1 << 24
MAX_NAMES_SHOWN = 12

_IN_ARCHIVE = re.compile(r"\.ark:\d+(\[.*\])?$")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read_lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines of a UTF-8 file that are not blank; messages say what was `expected`.

    Raises:
        UserError: a file that is missing, is not UTF-8, has more than MAX_MANIFEST_BYTES, or a line longer than
            MAX_LINE_BYTES.
    """
    try:
        with open_file(path) as file:
            yield from _lines_of(path, file, expected)
    except OSError as error:
        raise UserError(f"{path}: expected {expected} ({error.strerror}); {contents(path.parent)}") from None


def _lines_of(path: Path, file: BinaryIO, expected: str) -> Iterator[tuple[int, str]]:
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
        # On old Macs a lone \r ends a line.
        for line in text.removesuffix("\n").removesuffix("\r").split("\r"):
            number += 1
            if line.strip():
                yield number, line


def explain_no_path(source: str) -> str:
    """Return why what a manifest names as the sound is not a file's path, "" where it is one."""
    if source.endswith("|") or source.startswith("|"):
        return f"{shown(source)} is a command; commands are not run, write its sound to a file"
    if _IN_ARCHIVE.search(source):
        return f"{shown(source)} is a place in a Kaldi archive, which is not read; write its sound to a file (wav-copy)"
    if _ADDRESS.match(source):
        return f"{shown(source)} is an address; nothing is downloaded, save its sound in a file"
    return ""


def find_path(source: str, *folders: Path) -> Path:
    """Return the path of a sound; a relative one starts from the first of the folders that has it, or from the first.

    A ValueError says that `source` is no path.
    """
    if problem := explain_no_path(source):
        raise ValueError(problem)
    paths = dict.fromkeys(folder / source for folder in folders)
    first = next(iter(paths))
    return first if len(paths) == 1 else next(filter(os.path.exists, paths), first)


def to_seconds(value: Any) -> float:
    """Return a stated length as a number; a ValueError says that it is not one above 0."""
    seconds = _to_number(value)
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected seconds above 0, found {shown(value)}")
    return seconds


def to_start(value: Any) -> float:
    """Return the start of a part as a number; a ValueError says that it is not one from 0 on."""
    seconds = _to_number(value)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"expected a start of 0 s or later, found {shown(value)}")
    return seconds


def _to_number(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def contents(folder: Path) -> str:
    """Return a phrase that lists what a folder holds."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(escaped(f"{entry.name}/" if entry.is_dir() else entry.name) for entry in folder.iterdir())
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return f"{folder} holds {', '.join(names[:MAX_NAMES_SHOWN]) or 'nothing'}{more}"
