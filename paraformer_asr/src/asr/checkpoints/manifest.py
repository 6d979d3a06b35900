"""The manifest of a folder: what is in it, and the SHA-256 of every file.

orbax restores a file with a flipped bit without an error, and wrong weights with it. The manifest is what
finds it. Its last entry is the SHA-256 of the rest of itself, so that damage to the manifest is found too.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from asr.errors import UserError
from asr.files import is_aside, open_file, read_bounded, replace_text, sync_directory

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 26


class DamagedCheckpointError(Exception):
    """A checkpoint is not as it was written; the message names every bad file."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder consists of.

    Attributes:
        details: what its writer says about it, in JSON values.
        files: path below the folder → {"size": bytes, "sha256": hexadecimal digits}.
    """

    details: dict[str, Any]
    files: dict[str, dict[str, Any]]


def write_manifest(folder: Path, details: dict[str, Any] | None = None) -> None:
    """Hash all files of `folder`, force them to the disk, and write the manifest beside them.

    The manifest appears at once and last of all: a folder that has one is complete.
    """
    files = {name: _describe_file(folder / name) for name in _file_names(folder)}
    for directory in {folder, *((folder / name).parent for name in files)}:
        sync_directory(directory)
    replace_text(folder / MANIFEST, to_text(Manifest(details or {}, files)))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a folder.

    Raises:
        DamagedCheckpointError: it is missing, or not byte for byte what `write_manifest` wrote.
    """
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


def _checked_files(files: Any) -> dict[str, dict[str, Any]]:
    """Return the table of files of a manifest; whoever wrote it, no file outside of the folder is looked at.

    Raises:
        ValueError: it is no such table.
    """
    if not isinstance(files, dict):
        raise ValueError("'files' is no table")
    for name, entry in files.items():
        inside = name and not name.startswith("/") and ".." not in Path(name).parts
        described = isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)
        if not (inside and described):
            raise ValueError(f"'files' has an entry {name!r:.80} that is none")
    return files


def verify_files(folder: Path, manifest: Manifest) -> list[str]:
    """Compare every file with the manifest; return the names of surplus files, which are harmless.

    Files are read in small pieces: memory does not grow with the checkpoint.

    Raises:
        DamagedCheckpointError: naming each file that is missing, truncated or changed.
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
    """Return what is wrong with a file, or an empty text."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            return "is no file"
        if size != entry["size"]:
            return f"has {size} bytes instead of {entry['size']}"
        return "" if sha256(path) == entry["sha256"] else "has changed since it was written (SHA-256 differs)"
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:  # a ValueError: no file can have this name
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _describe_file(path: Path) -> dict[str, Any]:
    with open_file(path) as file:
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def _file_names(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST and not is_aside(Path(name)))


def to_text(manifest: Manifest) -> str:
    """Return the one text that a manifest has; reading compares with it, so even a changed blank is found."""
    content = json.loads(json.dumps(dataclasses.asdict(manifest)))  # keys are texts now, as after reading
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"
