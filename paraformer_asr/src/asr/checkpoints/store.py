"""The folder `checkpoints/` of a run: saving, retention, search and restoring.

A checkpoint is a folder such as `step_00001200` with the arrays (orbax, `arrays/`) and `manifest.json`. It is written
as `unfinished_step_00001200`, the manifest last, and then renamed: a folder named `step_…` was complete once. A killed
process leaves a folder named `unfinished_…`; the next save removes it.
"""

import itertools
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from asr.checkpoints.arrays import (
    ARRAYS_NAME,
    Description,
    check_same_arrays,
    count_bytes,
    describe_arrays,
    named_arrays,
    read_arrays,
    read_collections,
    stored_arrays,
    write_arrays,
)
from asr.checkpoints.manifest import (
    DamagedCheckpointError,
    Manifest,
    read_checkpoint,
    read_manifest,
    verify_files,
    write_manifest,
)
from asr.checkpoints.ranking import Which, candidates, is_rank, retained
from asr.errors import UserError
from asr.files import sync_directory

log = logging.getLogger("asr.checkpoints")

UNFINISHED = "unfinished_"
FREE_SPACE_FACTOR, LISTS_BYTES = 2, 1_000_000
"""Free space needed: a multiple of the state, plus bytes for orbax's metadata, which can exceed a tiny state."""

EARLIER_ARE_INTACT = "the earlier checkpoints are intact and training can be resumed from them."


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, keep: int = 2, keep_best: int = 1):
        self.directory = Path(directory)
        self.keep, self.keep_best = keep, keep_best

    def steps(self) -> list[int]:
        """Return the steps with an intact manifest, ascending."""
        return sorted(self._manifests())

    def save(self, step: int, state: Any, progress: dict[str, Any], score: Sequence[float] | None = None) -> Path:
        """Write a checkpoint; when this returns, it is on the disk and valid.

        If the process is killed earlier, the checkpoint is ignored and the earlier ones are intact. Checkpoints of
        later steps belong to an abandoned continuation and are removed. With several processes, all of them call this
        and share a file system.

        Args:
            step: updates done.
            state: a pytree of arrays.
            progress: a small dictionary of JSON values, returned by `restore`.
            score: what the state is ranked by, lower is better: an error rate, then the tie-breakers. None if the
                state was not evaluated: it is never the best.

        Raises:
            UserError: less than twice the size of the state is free on the disk, or a write fails.
        """
        final = self._folder(step)
        unfinished = final.with_name(UNFINISHED + final.name)
        arrays = describe_arrays(state)
        try:
            self._prepare(arrays)
            write_arrays(unfinished / ARRAYS_NAME, state)
            if jax.process_index() == 0:
                score = None if score is None else list(score)
                write_manifest(unfinished, {"step": step, "score": score, "progress": progress, "arrays": arrays})
                self._put_in_place(unfinished, final)
                self._remove_superseded(step)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise UserError(
                f"{final}: cannot write the checkpoint ({error.strerror or error}). It needs "
                f"{_megabytes(space_needed(arrays))} of free disk space: free some, or move the run directory to "
                f"another disk; {EARLIER_ARE_INTACT}"
            ) from error
        _wait_for_all(f"checkpoint {step} saved")
        return final

    def restore(self, abstract_state: Any, which: Which = "last") -> tuple[Any, dict[str, Any]]:
        """Return `(state, progress)` of a checkpoint whose every byte has been verified.

        A damaged checkpoint is reported in a warning and the next older one is used; a damaged checkpoint that was
        requested by its step is an error.

        Args:
            abstract_state: the state's pytree with `jax.ShapeDtypeStruct` leaves (`jax.eval_shape`); an array is
                placed by its `sharding`, if it has one. A live state works too, but then both are in memory.
            which: "last", "best" or a step.

        Raises:
            UserError: no checkpoint is intact, or its arrays differ from those of the abstract state.
        """
        expected = describe_arrays(abstract_state)
        folder, manifest = self._find_together(which, expected)
        restored = read_arrays(folder / ARRAYS_NAME, named_arrays(abstract_state))
        treedef = jax.tree.structure(abstract_state)
        state = jax.tree.unflatten(treedef, [restored[name] for name in expected])
        return state, manifest.details["progress"]

    def _folder(self, step: int) -> Path:
        return self.directory / f"step_{step:08d}"

    def _folders(self) -> dict[int, Path]:
        """Return step → folder, ascending, of all checkpoints that were complete once."""
        if not self.directory.is_dir():
            return {}
        matches = ((re.fullmatch(r"step_(\d{8,})", path.name), path) for path in self.directory.iterdir())
        return dict(sorted((int(match[1]), path) for match, path in matches if match))

    def _manifests(self) -> dict[int, Manifest]:
        manifests = {}
        for step, folder in self._folders().items():
            try:
                manifests[step] = read_checkpoint(folder, step, is_rank)
            except DamagedCheckpointError as error:
                log.warning("ignoring the checkpoint of step %d: %s", step, error)
        return manifests

    def _prepare(self, arrays: dict) -> None:
        """Remove what killed processes left, then check the free space."""
        if jax.process_index() == 0:
            if not self.directory.parent.is_dir():
                raise UserError(f"{self.directory.parent}: the folder is gone, nothing can be saved; start again")
            self.directory.mkdir(exist_ok=True)
            self._remove_unfinished()
        _wait_for_all("leftovers removed")
        needed = space_needed(arrays)
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise UserError(
                f"{self.directory}: a checkpoint needs {_megabytes(needed)} of free disk space (twice the state plus "
                f"1 MB), found {_megabytes(free)}. Free some space, or move the run directory to another disk; "
                f"{EARLIER_ARE_INTACT}"
            )

    def _remove_superseded(self, step: int) -> None:
        manifests = {s: m for s, m in self._manifests().items() if s <= step}
        kept = retained(manifests, self.keep, self.keep_best)
        for other, folder in self._folders().items():
            if other not in kept:
                _disqualify(folder)
        self._remove_unfinished()

    def _put_in_place(self, unfinished: Path, final: Path) -> None:
        """Rename a complete folder; a folder of this name is damaged or from an abandoned continuation."""
        if final.exists():
            _disqualify(final)
        unfinished.rename(final)
        sync_directory(self.directory)

    def _remove_unfinished(self) -> None:
        for leftover in self.directory.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)  # leftovers are removed at the next save

    def _find_together(self, which: Which, expected: Description) -> tuple[Path, Manifest]:
        """Return the first of `_good`; with several processes, one reads all the bytes and the rest follow it."""
        if jax.process_index() == 0:
            folder, manifest = next(self._good(which, expected), (None, None))
            if manifest is None:
                raise UserError(self._none_found(which))
        if jax.process_count() > 1:
            step = manifest.details["step"] if jax.process_index() == 0 else 0
            folder = self._folder(int(multihost_utils.broadcast_one_to_all(np.int32(step))))
            manifest = read_manifest(folder)
        return folder, manifest

    def _good(self, which: Which, expected: Description | None = None) -> Iterator[tuple[Path, Manifest]]:
        manifests = self._manifests()
        for step in candidates(which, manifests):
            folder, manifest = self._folder(step), manifests[step]
            if expected is not None:
                check_same_arrays(expected, stored_arrays(manifest.details["arrays"]), folder)
            try:
                surplus = verify_files(folder, manifest)
            except DamagedCheckpointError as error:
                log.warning("ignoring the damaged checkpoint of step %d: %s", step, error)
                continue
            if surplus:
                log.warning("%s: ignoring files that are not part of the checkpoint: %s", folder, ", ".join(surplus))
            log.info("using the checkpoint of step %d in %s", step, folder)
            yield folder, manifest

    def _none_found(self, which: Which) -> str:
        if not self._folders():
            return f"{self.directory}: there is no checkpoint (expected folders named step_…); train first"
        if isinstance(which, str):
            return f"{self.directory}: no checkpoint is intact; the warnings above name the damage"
        intact = ", ".join(str(step) for step in self.steps() if step != which) or "none"
        return f"{self.directory}: the checkpoint of step {which} is missing or damaged; intact steps: {intact}"

    def _too_few(self, which: Which, number: int, count: int) -> str:
        if isinstance(which, int):
            return f"the mean of {number} checkpoints: expected 'best' or 'last', found step {which}"
        setting = {"best": "training.keep_best", "last": "training.keep_checkpoints"}[which]
        return (
            f"{self.directory}: cannot average the {number} {which} checkpoints, as only {count} are intact. Average "
            f"at most {count}, or train with {setting}={number} or more"
        )


def restore_variables(directory: Path, which: Which = "best", average: int = 1) -> dict[str, Any]:
    """Return `{"params": …}` for inference: the moving average of the weights if there is one.

    The optimizer's state, and weights that are not used, are not read.

    Args:
        directory: the folder `checkpoints/` of a run.
        which: "last", "best" or a step.
        average: number of checkpoints whose weights are averaged in float32: the newest, or those with the lowest
            scores. They are read one after the other.
    """
    store = CheckpointStore(directory)
    needs_score = average > 1 and which == "best"
    good = ((f, m) for f, m in store._good(which) if not needs_score or m.details["score"] is not None)
    checkpoints = list(itertools.islice(good, average))
    if len(checkpoints) < average:
        short = store._too_few(which, average, len(checkpoints))
        raise UserError(store._none_found(which) if average == 1 else short)
    return {"params": _mean_params(checkpoints)}


def _disqualify(folder: Path) -> None:
    """Rename a checkpoint so that it is ignored, even while half removed."""
    folder.rename(folder.with_name(f"{UNFINISHED}removal_{folder.name}"))


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def space_needed(arrays: dict) -> int:
    """Return the free bytes that a save needs."""
    return FREE_SPACE_FACTOR * count_bytes(arrays) + LISTS_BYTES


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _mean_params(checkpoints: list[tuple[Path, Manifest]]) -> Any:
    """Return the mean of the weights, the moving average if there is one, reading one checkpoint at a time."""
    first = stored_arrays(checkpoints[0][1].details["arrays"])
    name = "ema_params" if any(name.startswith("ema_params/") for name in first) else "params"
    total = None
    for folder, manifest in checkpoints:
        check_same_arrays(first, stored_arrays(manifest.details["arrays"]), folder)
        params = read_collections(folder / ARRAYS_NAME, first, (name,))[name]
        total = params if total is None else jax.tree.map(jnp.add, total, params)
    return total if len(checkpoints) == 1 else jax.tree.map(lambda t: t / len(checkpoints), total)
