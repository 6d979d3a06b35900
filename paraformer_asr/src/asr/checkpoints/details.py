"""What a checkpoint's manifest says of it: read from a file that anybody may have written."""

from pathlib import Path
from typing import Any

from asr.checkpoints.manifest import MANIFEST, DamagedCheckpointError, Manifest, read_manifest

ARRAY_DTYPES = {"float64", "float32", "bfloat16", "float16", "int64", "int32", "int8", "uint32", "uint8", "bool"}
"""Those that a state may have."""


def read_details(folder: Path, step: int) -> Manifest:
    """Return the manifest of the checkpoint of a step, whose details are what a save writes.

    Raises:
        DamagedCheckpointError: it is missing, has changed, or its own checksum is right and its details are not.
    """
    manifest = read_manifest(folder)
    details = manifest.details if isinstance(manifest.details, dict) else {}
    arrays = details.get("arrays")
    good = {
        "step": details.get("step") == step,
        "score": "score" in details and _is_score(details["score"]),
        "progress": isinstance(details.get("progress"), dict),
        "arrays": isinstance(arrays, dict) and bool(arrays) and all(map(_is_array, arrays.values())),
    }
    if bad := [name for name, found in good.items() if not found]:
        raise DamagedCheckpointError(
            f"{folder / MANIFEST}: {bad[0]!r} is not what a checkpoint of step {step} has there"
        )
    return manifest


def _is_array(entry: Any) -> bool:
    """Return whether an entry is the shape and the dtype of an array."""
    match entry:
        case [list(shape), str(dtype)]:
            return dtype in ARRAY_DTYPES and all(type(length) is int and length >= 0 for length in shape)
    return False


def _is_score(score: Any) -> bool:
    """Return whether a checkpoint can be ranked by this: numbers, or None."""
    return score is None or (isinstance(score, list) and all(isinstance(value, int | float) for value in score))
