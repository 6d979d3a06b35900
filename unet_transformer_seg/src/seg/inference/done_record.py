"""The record of complete results in a folder, which `--skip-done` reads.

`.seg_done.jsonl` in the folder of the results gets one line for each input, when all of its results are in place:

    {"made_by": SHA-256 of weights and settings, "source": path, "size": bytes, "modified_ns": nanoseconds,
     "results": {name below the folder: bytes}}

A result counts as done only if the same model with the same settings made it, the input has not changed since, and each
of its files still has its size.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seg.checkpoints.arrays import named_arrays
from seg.errors import UserError
from seg.files import open_log, read_bounded

RECORD = ".seg_done.jsonl"
MAX_RECORD_BYTES = 1 << 30


def digest_model(variables: Any, settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all that decides what a result holds.

    Args:
        variables: the weights.
        settings: JSON values: the config's sections that matter, options of the command.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, array in sorted(named_arrays(variables).items()):
        values = np.ascontiguousarray(array)
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.reshape(-1).view(np.uint8))
    return digest.hexdigest()


class DoneRecord:
    """The record of one folder, as far as one model and its settings are concerned."""

    def __init__(self, folder: Path, made_by: str):
        """Read the record, if there is one.

        Args:
            folder: of the results.
            made_by: see `digest_model`.

        Raises:
            UserError: the record is a pipe or a device, or is too large.
        """
        self.folder, self._made_by, self._path = folder, made_by, folder / RECORD
        try:
            lines = read_bounded(self._path, MAX_RECORD_BYTES).split(b"\n")
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise self._unusable(error) from None
        self._done = {entry["source"]: entry for entry in map(_entry, lines) if entry.get("made_by") == made_by}

    def is_done(self, source: Path, results: Sequence[Path]) -> bool:
        """Return whether the results of an input are complete, and those of this model and these settings.

        Args:
            source: the input file.
            results: the files that would be written.
        """
        try:
            return self._done.get(_text(source.absolute())) == self._describe(source, results)
        except OSError:
            return False

    def add(self, source: Path, results: Sequence[Path]) -> None:
        """Note that the results of an input are complete.

        Raises:
            UserError: the record cannot be written.
        """
        try:
            line = json.dumps(self._describe(source, results))
            with open_log(self._path) as file:
                file.write(f"\n{line}\n".encode("ascii"))  # a line of its own even behind one that was cut off
        except OSError as error:
            raise self._unusable(error) from None

    def _describe(self, source: Path, results: Sequence[Path]) -> dict[str, Any]:
        """Return the entry of an input and its results as they are on the disk now."""
        status = source.stat()
        return {
            "made_by": self._made_by,
            "source": _text(source.absolute()),
            "size": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "results": {_text(path.relative_to(self.folder)): path.stat().st_size for path in results},
        }

    def _unusable(self, error: OSError) -> UserError:
        return UserError(f"{self._path}: cannot keep the record of what is done ({error.strerror or error})")


def _entry(line: bytes) -> dict[str, Any]:
    """Return the entry of a line; nothing for a line that was cut off or is something else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) and isinstance(entry.get("source"), str) else {}


def _text(path: Path) -> str:
    """Return the path as a text that JSON can hold; bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
