"""Whether two runs of the same config ended in the same bits and wrote the same numbers."""

import csv
import json
from pathlib import Path

import jax
import numpy as np

from seg.checkpoints.arrays import read_arrays, stored_arrays
from seg.checkpoints.manifest import read_manifest, verify_files
from seg.checkpoints.store import ARRAYS_NAME

TIMES = ("run_id", "images_per_s", "seconds")
"""What two runs of the same config may differ in."""


def differences(run: Path, other: Path) -> list[str]:
    """Return what differs between two run directories: final arrays, progress, tables; empty if nothing does."""
    (arrays, progress), (others, other_progress) = last_state(run), last_state(other)
    differing = compare_arrays(arrays, others)
    differing += [f"{run.name}: {other.name} has another progress"] if progress != other_progress else []
    for name, read in {"results.csv": read_table, "metrics.json": read_details}.items():
        differing += [f"{run / name} differs from {other / name}"] if read(run / name) != read(other / name) else []
    return differing


def last_state(run: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return the arrays and the progress, but for times, of a run's last checkpoint; damage raises."""
    folder = sorted((run / "checkpoints").glob("step_*"))[-1]
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return read_checkpoint(folder), without_times(manifest.details["progress"])


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a checkpoint: parameters, moments, averages, statistics and counters."""
    described = stored_arrays(read_manifest(folder).details["arrays"])
    abstract = {name: jax.ShapeDtypeStruct(shape, jax.numpy.dtype(kind)) for name, (shape, kind) in described.items()}
    return {name: np.asarray(array) for name, array in read_arrays(folder / ARRAYS_NAME, abstract).items()}


def compare_arrays(arrays: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> list[str]:
    """Return the names of arrays that are not the same to the last bit, with what differs."""
    differing = []
    for name in sorted(arrays | others):
        one, other = arrays.get(name), others.get(name)
        if one is None or other is None:
            differing.append(f"{name}: only in one of the two")
        elif (one.shape, one.dtype) != (other.shape, other.dtype):
            differing.append(f"{name}: {one.dtype}{one.shape} and {other.dtype}{other.shape}")
        elif one.tobytes() != other.tobytes():
            differing.append(f"{name}: other bits")
    return differing


def read_table(path: Path) -> list[dict]:
    """Return the rows of a results table, but for times."""
    with path.open(newline="") as file:
        return [without_times(row) for row in csv.DictReader(file)]


def read_details(path: Path) -> list[dict]:
    """Return the evaluations in `metrics.json`, but for times."""
    return [without_times(detail) for detail in json.loads(path.read_text())]


def without_times(values: dict) -> dict:
    """Return the values that two runs of the same config share."""
    return {key: value for key, value in values.items() if key not in TIMES}


def evaluated_steps(run: Path) -> list[int]:
    """Return the steps after which a run evaluated."""
    return [int(row["step"]) for row in read_table(run / "results.csv")]
