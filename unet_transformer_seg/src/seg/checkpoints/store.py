"""The folder `checkpoints/` of a run: saving, keeping, finding and restoring.

Each checkpoint is a folder `step_00001200` with the arrays (orbax, `arrays/`) and `manifest.json`. It is written as
`unfinished_step_00001200`, the manifest last, and then renamed: a folder called `step_…` was complete once.
Whatever is called `unfinished_…` was left by a killed process and is removed at the next save.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import flax.traverse_util
import jax
import numpy as np
from jax.experimental import multihost_utils

from seg.checkpoints.arrays import (
    check_same_arrays,
    count_bytes,
    describe_arrays,
    named_arrays,
    read_arrays,
    stored_arrays,
    write_arrays,
)
from seg.checkpoints.details import read_details
from seg.checkpoints.manifest import (
    DamagedCheckpointError,
    Manifest,
    read_manifest,
    verify_files,
    write_manifest,
)
from seg.errors import UserError
from seg.files import sync_directory

log = logging.getLogger("seg.checkpoints")

Which = Literal["last", "best"] | int
"""Which checkpoint: the newest, the one with the best score, or the one of this step."""

ARRAYS_NAME = "arrays"
UNFINISHED = "unfinished_"
FREE_SPACE_FACTOR, LISTS_BYTES = 2, 1_000_000
"""orbax's lists of the arrays are larger than a tiny state."""

EARLIER_ARE_INTACT = "the earlier checkpoints are untouched and training can be resumed from them."


class CheckpointStore:
    """The checkpoints of one run.

    Attributes:
        directory: their folder; made at the first save.
        keep: how many of the newest stay, besides the best.
    """

    def __init__(self, directory: Path, keep: int = 2):
        self.directory = Path(directory)
        self.keep = keep

    def steps(self) -> list[int]:
        """Return the steps that can be asked for, ascending: those with an intact manifest."""
        return sorted(self._manifests())

    def save(self, step: int, state: Any, progress: dict[str, Any], best: bool) -> Path:
        """Write a checkpoint; when this returns, it is on the disk and counts.

        Killed at any moment before, it does not count, and the earlier checkpoints are untouched. Checkpoints of
        later steps belong to a continuation that was abandoned and are removed. With several processes all of
        them call this, on a common file system.

        Args:
            step: updates done.
            state: a pytree of arrays.
            progress: a small dictionary of JSON values, given back by `restore`.
            best: whether the score is the best so far.

        Returns:
            The folder of the checkpoint.

        Raises:
            UserError: the disk has less than twice the bytes of the state free, or refuses to write.
        """
        final = self._folder(step)
        unfinished = final.with_name(UNFINISHED + final.name)
        arrays = describe_arrays(state)
        try:
            self._prepare(arrays)
            write_arrays(unfinished / ARRAYS_NAME, state)
            if jax.process_index() == 0:
                write_manifest(unfinished, {"step": step, "best": best, "progress": progress, "arrays": arrays})
                self._put_in_place(unfinished, final)
                self._remove_superseded(step)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise UserError(
                f"{final}: the checkpoint cannot be written ({error.strerror or error}). It needs "
                f"{_megabytes(space_needed(arrays))} of free disk space: free some, or move the run directory to "
                f"another disk; {EARLIER_ARE_INTACT}"
            ) from error
        _wait_for_all(f"checkpoint {step} saved")
        return final

    def restore(self, abstract_state: Any, which: Which = "last") -> tuple[Any, dict[str, Any]]:
        """Return `(state, progress)` of a checkpoint whose every byte has been verified.

        A damaged checkpoint is named in a warning, and the next older one is taken; if a step was asked for by
        its number, that is an error instead.

        Args:
            abstract_state: the state's pytree with `jax.ShapeDtypeStruct` leaves (`jax.eval_shape`); the arrays
                are placed by their `sharding`, where they have one. Giving a live state works but holds both.
            which: "last", "best" or a step.

        Raises:
            UserError: there is no good checkpoint, or it holds other arrays than the abstract state.
        """
        expected = describe_arrays(abstract_state)
        folder, manifest = self._find_together(which, expected)
        restored = read_arrays(folder / ARRAYS_NAME, named_arrays(abstract_state))
        treedef = jax.tree.structure(abstract_state)
        state = jax.tree.unflatten(treedef, [restored[name] for name in expected])
        return state, manifest.details["progress"]

    def restore_variables(self, which: Which = "best") -> dict[str, Any]:
        """Return `{"params": …, "batch_stats": …}` for inference: the averaged weights where there are any.

        Neither the optimizer nor the weights that are not asked for are read into memory.

        Raises:
            UserError: there is no good checkpoint.
        """
        folder, manifest = self._find(which, None)
        arrays = stored_arrays(manifest.details["arrays"])
        averaged = any(name.startswith("ema_params/") for name in arrays)
        wanted = {"ema_params": "params", "ema_batch_stats": "batch_stats"} if averaged else {}
        wanted = wanted or {"params": "params", "batch_stats": "batch_stats"}
        abstract = {
            name: jax.ShapeDtypeStruct(shape, jax.numpy.dtype(dtype))
            for name, (shape, dtype) in arrays.items()
            if name.split("/")[0] in wanted
        }
        tree = flax.traverse_util.unflatten_dict(read_arrays(folder / ARRAYS_NAME, abstract), sep="/")
        return {collection: tree.get(stored, {}) for stored, collection in wanted.items()}

    def _folder(self, step: int) -> Path:
        return self.directory / f"step_{step:08d}"

    def _folders(self) -> dict[int, Path]:
        """Return step → folder, ascending, of all that was complete once."""
        if not self.directory.is_dir():
            return {}
        matches = ((re.fullmatch(r"step_(\d{8,})", path.name), path) for path in self.directory.iterdir())
        return dict(sorted((int(match[1]), path) for match, path in matches if match))

    def _manifests(self) -> dict[int, Manifest]:
        manifests = {}
        for step, folder in self._folders().items():
            try:
                manifests[step] = read_details(folder, step)
            except DamagedCheckpointError as error:
                log.warning("checkpoint of step %d does not count: %s", step, error)
        return manifests

    def _prepare(self, arrays: dict) -> None:
        """Remove what killed processes left, then make sure that there is room."""
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
                f"{self.directory}: a checkpoint needs {_megabytes(needed)} of free disk space (twice the state and "
                f"1 MB), found {_megabytes(free)}. Free some space, or move the run directory to another disk; "
                f"{EARLIER_ARE_INTACT}"
            )

    def _remove_superseded(self, step: int) -> None:
        """Remove all but the newest `keep` and the best; steps after `step` are from an abandoned continuation."""
        manifests = {s: m for s, m in self._manifests().items() if s <= step}
        best = max((s for s, m in manifests.items() if m.details["best"]), default=step)
        kept = {best, *sorted(manifests)[-self.keep :]}
        for other, folder in self._folders().items():
            if other not in kept:
                _disqualify(folder)
        self._remove_unfinished()

    def _put_in_place(self, unfinished: Path, final: Path) -> None:
        """Rename a complete folder; what bears the name is damaged, or of an abandoned continuation."""
        if final.exists():
            _disqualify(final)
        unfinished.rename(final)
        sync_directory(self.directory)

    def _remove_unfinished(self) -> None:
        for leftover in self.directory.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)  # what resists is tried again at the next save

    def _find_together(self, which: Which, expected: dict) -> tuple[Path, Manifest]:
        """Return what `_find` returns; one of several processes reads all the bytes, and the others follow it."""
        if jax.process_count() == 1:
            return self._find(which, expected)
        step = self._find(which, expected)[1].details["step"] if jax.process_index() == 0 else 0
        folder = self._folder(int(multihost_utils.broadcast_one_to_all(np.int32(step))))
        return folder, read_manifest(folder)

    def _find(self, which: Which, expected: dict | None) -> tuple[Path, Manifest]:
        """Return the folder and manifest of the first good checkpoint of those that `which` admits."""
        manifests = self._manifests()
        for step in self._candidates(which, manifests):
            folder, manifest = self._folder(step), manifests[step]
            if expected is not None:
                check_same_arrays(expected, stored_arrays(manifest.details["arrays"]), folder)
            try:
                surplus = verify_files(folder, manifest)
            except DamagedCheckpointError as error:
                log.warning("checkpoint of step %d is damaged and not used: %s", step, error)
                continue
            if surplus:
                log.warning("%s: ignoring files that do not belong to the checkpoint: %s", folder, ", ".join(surplus))
            log.info("using the checkpoint of step %d in %s", step, folder)
            return folder, manifest
        raise UserError(self._none_found(which))

    def _candidates(self, which: Which, manifests: dict[int, Manifest]) -> list[int]:
        """Return the steps to try, in this order."""
        newest_first = sorted(manifests, reverse=True)
        if which == "last":
            return newest_first
        if which == "best":
            return sorted(newest_first, key=lambda step: not manifests[step].details["best"])
        return [which] if which in manifests else []

    def _none_found(self, which: Which) -> str:
        if not self._folders():
            return f"{self.directory}: there is no checkpoint (expected folders named step_…); train first"
        if isinstance(which, str):
            return f"{self.directory}: no checkpoint is intact; what is damaged is said above"
        others = ", ".join(str(step) for step in self.steps() if step != which) or "none"
        return f"{self.directory}: the checkpoint of step {which} is missing or damaged; others: {others}"


def restore_variables(directory: Path, which: Which = "best") -> dict[str, Any]:
    """Return `{"params": …, "batch_stats": …}` from the folder `checkpoints/` of a run.

    Raises:
        UserError: there is no good checkpoint.
    """
    return CheckpointStore(directory).restore_variables(which)


def _disqualify(folder: Path) -> None:
    """Rename a checkpoint so that it does not count, not even while it is half removed."""
    folder.rename(folder.with_name(f"{UNFINISHED}removal_{folder.name}"))


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def space_needed(arrays: dict) -> int:
    """Return the free bytes without which no checkpoint is begun."""
    return FREE_SPACE_FACTOR * count_bytes(arrays) + LISTS_BYTES


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
