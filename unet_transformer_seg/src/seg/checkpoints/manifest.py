"""The manifest of a folder: the SHA-256 of every file, and details about its content.

orbax restores a file with a flipped bit without an error, as wrong weights. The manifest detects this. Its last entry
is the SHA-256 of the manifest itself, so damage to the manifest is detected too.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seg.errors import UserError
from seg.files import is_aside, open_file, read_bounded, replace_text, sync_directory

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 26  # largest manifest read, in bytes

ARRAY_DTYPES = {"float64", "float32", "bfloat16", "float16", "int64", "int32", "int8", "uint32", "uint8", "bool"}
"""Dtypes that the arrays of a state may have."""


class DamagedCheckpointError(Exception):
    """A checkpoint is not what was written; the message names every bad file."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Content of a folder."""

    details: dict[str, Any]  # facts that its writer adds, as JSON values
    files: dict[str, dict[str, Any]]  # path below the folder → {"size": bytes, "sha256": hexadecimal digits}


def write_manifest(folder: Path, details: dict[str, Any] | None = None) -> None:
    """Hash all files of `folder`, flush them to the disk, and write the manifest beside them.

    The manifest is written atomically and last: a folder that has one is complete.
    """
    files = {}
    for name in _file_names(folder):
        with open_file(folder / name) as file:
            os.fsync(file.fileno())
        files[name] = {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    for directory in {folder, *((folder / name).parent for name in files)}:
        sync_directory(directory)
    replace_text(folder / MANIFEST, to_text(Manifest(details or {}, files)))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a folder, or refuse one that is not byte for byte what `write_manifest` wrote."""
    path = folder / MANIFEST
    try:
        text = read_bounded(path, MAX_MANIFEST_BYTES).decode("utf-8")
        content = json.loads(text)
        manifest = Manifest(content["details"], _checked_files(content["files"]))
        intact = text == to_text(manifest)
    except FileNotFoundError:
        raise DamagedCheckpointError(f"{path} is missing") from None
    except UserError as error:
        raise DamagedCheckpointError(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read ({type(error).__name__}: {error!s:.200})") from None
    if not intact:
        raise DamagedCheckpointError(f"{path} has changed since it was written")
    return manifest


def read_checkpoint(folder: Path, step: int, is_rank: Callable[[dict[str, Any]], bool]) -> Manifest:
    """Return the manifest of a checkpoint, or refuse one that is damaged or not of this step.

    `is_rank` returns whether the details hold what checkpoints are ranked by.
    """
    manifest = read_manifest(folder)
    details = manifest.details if isinstance(manifest.details, dict) else {}
    arrays = details.get("arrays")
    if not (
        details.get("step") == step
        and is_rank(details)
        and isinstance(details.get("progress"), dict)
        and isinstance(arrays, dict)
        and arrays
        and all(map(_is_array, arrays.values()))
    ):
        raise DamagedCheckpointError(f"{folder / MANIFEST}: its details are not those of a checkpoint of step {step}")
    return manifest


def _is_array(entry: Any) -> bool:
    """Return whether an entry is the shape and the dtype of an array."""
    match entry:
        case [list(shape), str(dtype)]:
            return dtype in ARRAY_DTYPES and all(type(length) is int and length >= 0 for length in shape)
    return False


def _checked_files(files: Any) -> dict[str, dict[str, Any]]:
    """Return the table of files of a manifest, whose paths must stay inside the folder."""
    if not isinstance(files, dict):
        raise ValueError("'files' is not a mapping")
    for name, entry in files.items():
        inside = name and not name.startswith("/") and ".." not in Path(name).parts
        described = isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)
        if not (inside and described):
            raise ValueError(f"'files' has an invalid entry {name!r:.80}")
    return files


def verify_files(folder: Path, manifest: Manifest) -> list[str]:
    """Refuse a folder with a missing or changed file; return the names of extra files, which are harmless.

    Files are read in chunks: memory does not grow with the checkpoint.
    """
    faults = {name: _fault(folder / name, entry) for name, entry in manifest.files.items()}
    bad = [f"{folder / name} {fault}" for name, fault in faults.items() if fault]
    if bad:
        raise DamagedCheckpointError("; ".join(bad))
    return sorted(set(_file_names(folder)) - set(manifest.files))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(path: Path, entry: dict[str, Any]) -> str:
    """Return what is wrong with a file, or an empty string."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            return "is not a file"
        if size != entry["size"]:
            return f"has {size} bytes instead of {entry['size']}"
        return "" if sha256(path) == entry["sha256"] else "has changed since it was written (SHA-256 differs)"
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _file_names(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST and not is_aside(Path(name)))


def to_text(manifest: Manifest) -> str:
    """Return the canonical text of a manifest; reading compares with it, so even a changed blank is detected."""
    content = json.loads(json.dumps(dataclasses.asdict(manifest)))  # keys become strings, as after reading
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"
