"""The folder `checkpoints/` of a run: saving, retention, search and restoring.

A checkpoint is a folder such as `step_00001200` with the arrays (orbax, `arrays/`) and `manifest.json`. It is written
as `unfinished_step_00001200`, the manifest last, and then renamed: a folder named `step_…` was complete once. A killed
process leaves a folder named `unfinished_…`; the next save removes it.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from seg.checkpoints.arrays import (
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
from seg.checkpoints.manifest import (
    DamagedCheckpointError,
    Manifest,
    read_checkpoint,
    read_manifest,
    verify_files,
    write_manifest,
)
from seg.checkpoints.ranking import Which, candidates, is_rank, retained
from seg.errors import UserError
from seg.files import sync_directory

log = logging.getLogger("seg.checkpoints")

UNFINISHED = "unfinished_"
FREE_SPACE_FACTOR, LISTS_BYTES = 2, 1_000_000
"""Free space needed: a multiple of the state, plus bytes for orbax's metadata, which can exceed a tiny state."""

EARLIER_ARE_INTACT = "the earlier checkpoints are intact and training can be resumed from them."


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, keep: int = 2):
        self.directory = Path(directory)  # made at the first save
        self.keep = keep  # number of newest checkpoints kept, besides the best

    def steps(self) -> list[int]:
        """Return the steps with an intact manifest, ascending."""
        return sorted(self._manifests())

    def save(self, step: int, state: Any, progress: dict[str, Any], best: bool) -> Path:
        """Write a checkpoint and return its folder; when this returns, it is on the disk and valid.

        If the process is killed earlier, the checkpoint is ignored and the earlier ones are intact. Checkpoints of
        later steps belong to an abandoned continuation and are removed. With several processes, all of them call this
        and share a file system.

        Args:
            step: updates done.
            state: a pytree of arrays.
            progress: a small dictionary of JSON values, returned by `restore`.
            best: whether the score is the best so far.

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
                write_manifest(unfinished, {"step": step, "best": best, "progress": progress, "arrays": arrays})
                if final.exists():  # damaged, or from an abandoned continuation
                    _disqualify(final)
                unfinished.rename(final)
                sync_directory(self.directory)
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
        """Remove all but the newest `keep` and the best; steps after `step` are from an abandoned continuation."""
        manifests = {s: m for s, m in self._manifests().items() if s <= step}
        kept = retained(manifests, self.keep)
        for other, folder in self._folders().items():
            if other not in kept:
                _disqualify(folder)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        for leftover in self.directory.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)  # leftovers are removed at the next save

    def _find_together(self, which: Which, expected: Description) -> tuple[Path, Manifest]:
        """Return what `_first_good` returns; with several processes, one reads all the bytes and the rest follow it."""
        if jax.process_count() == 1:
            return self._first_good(which, expected)
        step = self._first_good(which, expected)[1].details["step"] if jax.process_index() == 0 else 0
        folder = self._folder(int(multihost_utils.broadcast_one_to_all(np.int32(step))))
        return folder, read_manifest(folder)

    def _first_good(self, which: Which, expected: Description | None = None) -> tuple[Path, Manifest]:
        """Return folder and manifest of the first intact checkpoint that `which` admits."""
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
            return folder, manifest
        if not self._folders():
            raise UserError(f"{self.directory}: there is no checkpoint (expected folders named step_…); train first")
        if isinstance(which, str):
            raise UserError(f"{self.directory}: no checkpoint is intact; the warnings above name the damage")
        intact = ", ".join(str(step) for step in self.steps() if step != which) or "none"
        raise UserError(
            f"{self.directory}: the checkpoint of step {which} is missing or damaged; intact steps: {intact}"
        )


def restore_variables(directory: Path, which: Which = "best") -> dict[str, Any]:
    """Return `{"params": …, "batch_stats": …}` for inference: the averaged weights if there are any."""
    return restore_for_inference(directory, which)[0]


def restore_for_inference(directory: Path, which: Which = "best") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `restore_variables` and the progress of the checkpoint.

    The optimizer's state, and weights that are not used, are not read.
    """
    folder, manifest = CheckpointStore(directory)._first_good(which)
    arrays = stored_arrays(manifest.details["arrays"])
    prefix = "ema_" if any(name.startswith("ema_params/") for name in arrays) else ""
    stored = {name: f"{prefix}{name}" for name in ("params", "batch_stats")}
    tree = read_collections(folder / ARRAYS_NAME, arrays, stored.values())
    return {name: tree.get(place, {}) for name, place in stored.items()}, manifest.details["progress"]


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
