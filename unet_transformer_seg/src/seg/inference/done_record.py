"""The record of complete results in a folder, for `--skip-done`.

`.seg_done.jsonl` in that folder gets one line per input once all of its results are in place:

    {"made_by": SHA-256 of weights and settings, "source": path, "size": bytes, "modified_ns": nanoseconds,
     "results": {name below the folder: bytes}}

A result counts as done only if it was made by the same model and settings, the input has not changed since, and each
of its files still has its size.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seg.checkpoints.arrays import named_arrays
from seg.config.reader import to_plain
from seg.errors import UserError
from seg.files import open_log, read_bounded

if TYPE_CHECKING:
    from seg.inference.predictor import Predictor
    from seg.inference.segment_files import Options

RECORD = ".seg_done.jsonl"
MAX_RECORD_BYTES = 1 << 30


def digest_model(variables: Any, settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what determines a result: the weights, and settings of model and command as JSON values."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, array in sorted(named_arrays(variables).items()):
        values = np.ascontiguousarray(array)
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def digest_predictor(predictor: "Predictor", options: "Options") -> str:
    """Return the SHA-256 of what determines a result: the model, its settings, the options."""
    settings = {name: to_plain(getattr(predictor.config, name)) for name in ("model", "data", "inference")}
    settings |= {"instances": to_plain(predictor.config.instances)} if options.objects else {}
    settings |= {"classes": to_plain(predictor.classes), "options": to_plain(options)}
    return digest_model(predictor.variables, settings)


class DoneRecord:
    """The record of one folder, for one model with its settings."""

    def __init__(self, folder: Path, made_by: str):
        """Read the record of a folder of results, if there is one; `made_by` is that of `digest_model`."""
        self.folder, self._made_by, self._path = folder, made_by, folder / RECORD
        try:
            lines = read_bounded(self._path, MAX_RECORD_BYTES).split(b"\n")
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise self._unusable(error) from None
        self._done = {entry["source"]: entry for entry in map(_entry, lines) if entry.get("made_by") == made_by}

    def is_done(self, source: Path, results: Sequence[Path]) -> bool:
        """Return whether the results of an input are complete and made by this model and these settings."""
        try:
            return self._done.get(_text(source.absolute())) == self._describe(source, results)
        except OSError:
            return False

    def add(self, source: Path, results: Sequence[Path]) -> None:
        """Note that the results of an input are complete."""
        try:
            line = json.dumps(self._describe(source, results))
            with open_log(self._path) as file:
                file.write(f"\n{line}\n".encode("ascii"))  # a new line even after one that was cut off
        except OSError as error:
            raise self._unusable(error) from None

    def _describe(self, source: Path, results: Sequence[Path]) -> dict[str, Any]:
        """Return the entry of an input and its results as they are on disk now."""
        status = source.stat()
        return {
            "made_by": self._made_by,
            "source": _text(source.absolute()),
            "size": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "results": {_text(path.relative_to(self.folder)): path.stat().st_size for path in results},
        }

    def _unusable(self, error: OSError) -> UserError:
        return UserError(f"{self._path}: cannot record what is done ({error.strerror or error})")


def _entry(line: bytes) -> dict[str, Any]:
    """Return the entry of a line; {} for a line that was cut off or is something else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) and isinstance(entry.get("source"), str) else {}


def _text(path: Path) -> str:
    """Return the path as text for JSON, with escapes for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
