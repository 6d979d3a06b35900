"""The record of complete results in a folder, which `--skip-done` reads.

`.asr_done.jsonl` in the folder of the results gets one line for each input, once all of its results are written:

    {"made_by": SHA-256 of weights and settings, "source": path, "size": bytes, "modified_ns": nanoseconds,
     "part": which part of the input, missing for the whole, "results": {name below the folder: bytes}}

An input counts as done if the same model with the same settings made its results, it has not changed since, and each
result still has its size.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asr.checkpoints.arrays import named_arrays
from asr.config.reader import to_plain
from asr.errors import UserError
from asr.files import open_log, read_bounded

if TYPE_CHECKING:
    from asr.inference.transcriber import Transcriber

RECORD = ".asr_done.jsonl"
MAX_RECORD_BYTES = 1 << 30


def digest_model(variables: Any, settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything a result depends on: the weights, and settings as JSON values."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, array in sorted(named_arrays(variables).items()):
        values = np.ascontiguousarray(array)
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def digest_transcriber(transcriber: "Transcriber", output_format: str) -> str:
    """Return the SHA-256 of everything a result depends on: the model, its settings, the format."""
    settings = {name: to_plain(getattr(transcriber.config, name)) for name in ("features", "model", "inference")}
    settings |= {"tokens": transcriber.tokenizer.tokens, "format": output_format}
    settings["channel"] = transcriber.config.data.channel
    if language_model := transcriber.config.inference.language_model:
        status = Path(language_model).stat()
        settings["language_model"] = [status.st_size, status.st_mtime_ns]
    weights = {"variables": transcriber.variables, "cmvn": vars(transcriber.cmvn) if transcriber.cmvn else {}}
    if transcriber.vad:
        settings["vad"], weights["vad"] = to_plain(transcriber.vad.settings), transcriber.vad.weights
    return digest_model(weights, settings)


class DoneRecord:
    """The record of one folder for one model and its settings."""

    def __init__(self, folder: Path, made_by: str):
        """Read the record, if there is one; `made_by` is what `digest_model` returns."""
        self._folder, self._made_by, self._path = folder, made_by, folder / RECORD
        try:
            lines = read_bounded(self._path, MAX_RECORD_BYTES).split(b"\n")
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise self._unusable(error) from None
        self._done = {
            (entry["source"], entry.get("part", "")): entry
            for entry in map(_entry, lines)
            if entry.get("made_by") == made_by
        }

    def is_done(self, source: Path, results: Sequence[Path], part: str = "") -> bool:
        """Return whether the results of an input are complete and made by this model with these settings.

        `results` are the files that would be written; without a `part` they are of the whole input.
        """
        try:
            return self._done.get((_text(source.absolute()), part)) == self._describe(source, results, part)
        except OSError:
            return False

    def add(self, source: Path, results: Sequence[Path], part: str = "") -> None:
        """Note that the results of an input are complete."""
        try:
            line = json.dumps(self._describe(source, results, part))
            with open_log(self._path) as file:
                file.write(f"\n{line}\n".encode("ascii"))  # a line of its own even behind one that was cut off
        except OSError as error:
            raise self._unusable(error) from None

    def _describe(self, source: Path, results: Sequence[Path], part: str) -> dict[str, Any]:
        """Return the entry of an input and its results as they are on the disk now."""
        status = source.stat()
        return {
            "made_by": self._made_by,
            "source": _text(source.absolute()),
            "size": status.st_size,
            "modified_ns": status.st_mtime_ns,
            **({"part": part} if part else {}),
            "results": {_text(path.relative_to(self._folder)): path.stat().st_size for path in results},
        }

    def _unusable(self, error: OSError) -> UserError:
        return UserError(f"{self._path}: cannot keep the record of what is done ({error.strerror or error})")


def _entry(line: bytes) -> dict[str, Any]:
    """Return the entry of a line; nothing for a line that was cut off or is something else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(entry, dict):
        return {}
    return entry if all(isinstance(entry.get(key, ""), str) for key in ("source", "part")) and "source" in entry else {}


def _text(path: Path) -> str:
    """Return the path as a text that JSON can hold; bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
