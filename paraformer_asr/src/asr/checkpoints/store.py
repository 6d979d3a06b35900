"""The folder `checkpoints/` of a run: saving, keeping, finding and restoring.

Each checkpoint is a folder `step_00001200` with the arrays (orbax, `arrays/`) and `manifest.json`. It is written as
`unfinished_step_00001200`, the manifest last, and then renamed: a folder called `step_…` was complete once.
Whatever is called `unfinished_…` was left by a killed process and is removed at the next save.
"""

import itertools
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from asr.checkpoints.arrays import (
    ARRAYS_NAME,
    check_same_arrays,
    count_bytes,
    describe_arrays,
    named_arrays,
    read_arrays,
    stored_arrays,
    write_arrays,
)
from asr.checkpoints.averaging import mean_params
from asr.checkpoints.details import read_details
from asr.checkpoints.manifest import (
    DamagedCheckpointError,
    Manifest,
    read_manifest,
    verify_files,
    write_manifest,
)
from asr.errors import UserError
from asr.files import sync_directory

log = logging.getLogger("asr.checkpoints")

Which = Literal["last", "best"] | int
"""Which checkpoint: the newest, the one with the lowest score, or the one of this step."""

UNFINISHED = "unfinished_"
FREE_SPACE_FACTOR, LISTS_BYTES = 2, 1_000_000
"""orbax's lists of the arrays are larger than a tiny state."""

EARLIER_ARE_INTACT = "the earlier checkpoints are untouched and training can be resumed from them."


class CheckpointStore:
    """The checkpoints of one run.

    Attributes:
        directory: their folder; made at the first save.
        keep: how many of the newest stay.
        keep_best: how many of those with the lowest scores stay besides.
    """

    def __init__(self, directory: Path, keep: int = 2, keep_best: int = 1):
        self.directory = Path(directory)
        self.keep, self.keep_best = keep, keep_best

    def steps(self) -> list[int]:
        """Return the steps that can be asked for, ascending: those with an intact manifest."""
        return sorted(self._manifests())

    def save(self, step: int, state: Any, progress: dict[str, Any], score: Sequence[float] | None = None) -> Path:
        """Write a checkpoint; when this returns, it is on the disk and counts.

        Killed at any moment before, it does not count, and the earlier checkpoints are untouched. Checkpoints of
        later steps belong to a continuation that was abandoned and are removed. With several processes all of
        them call this, on a common file system.

        Args:
            step: updates done.
            state: a pytree of arrays.
            progress: a small dictionary of JSON values, given back by `restore`.
            score: what the state is ranked by, lower is better: an error rate, then what decides between equal
                ones. None where the state was not evaluated: it is never the best.

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
                score = None if score is None else list(score)
                write_manifest(unfinished, {"step": step, "score": score, "progress": progress, "arrays": arrays})
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

    def restore_variables(self, which: Which = "best", average: int = 1) -> dict[str, Any]:
        """Return `{"params": …}` for inference: the weights' moving average where there is one.

        Neither the optimizer nor the weights that are not asked for are read into memory.

        Args:
            which: "last", "best" or a step.
            average: the mean, in float32, of the weights of so many checkpoints: the newest, or those with the
                lowest scores. They are read one after the other.

        Raises:
            UserError: there is no good checkpoint, or fewer than asked for.
        """
        scored = average > 1 and which == "best"
        good = ((f, m) for f, m in self._good(which) if not scored or m.details["score"] is not None)
        found = list(itertools.islice(good, average))
        if len(found) < average:
            raise UserError(self._none_found(which) if average == 1 else self._too_few(which, average, len(found)))
        return {"params": mean_params(found)}

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
        """Remove all but the newest and the best; steps after `step` are from an abandoned continuation."""
        manifests = {s: m for s, m in self._manifests().items() if s <= step}
        best = [s for s in _best_first(manifests) if manifests[s].details["score"] is not None]
        kept = {*best[: self.keep_best], *sorted(manifests)[-self.keep :]}
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
        """Return the first of `_good`; one of several processes reads all the bytes, and the others follow it."""
        if jax.process_index() == 0:
            folder, manifest = next(self._good(which, expected), (None, None))
            if manifest is None:
                raise UserError(self._none_found(which))
        if jax.process_count() > 1:
            step = manifest.details["step"] if jax.process_index() == 0 else 0
            folder = self._folder(int(multihost_utils.broadcast_one_to_all(np.int32(step))))
            manifest = read_manifest(folder)
        return folder, manifest

    def _good(self, which: Which, expected: dict | None = None) -> Iterator[tuple[Path, Manifest]]:
        """Yield folder and manifest of the checkpoints that `which` admits and whose every byte is as written."""
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
            yield folder, manifest

    def _candidates(self, which: Which, manifests: dict[int, Manifest]) -> list[int]:
        """Return the steps to try, in this order."""
        if which == "last":
            return sorted(manifests, reverse=True)
        if which == "best":
            return _best_first(manifests)
        return [which] if which in manifests else []

    def _none_found(self, which: Which) -> str:
        if not self._folders():
            return f"{self.directory}: there is no checkpoint (expected folders named step_…); train first"
        if isinstance(which, str):
            return f"{self.directory}: no checkpoint is intact; what is damaged is said above"
        others = ", ".join(str(step) for step in self.steps() if step != which) or "none"
        return f"{self.directory}: the checkpoint of step {which} is missing or damaged; others: {others}"

    def _too_few(self, which: Which, number: int, found: int) -> str:
        if isinstance(which, int):
            return f"the mean of {number} checkpoints: expected 'best' or 'last', found the one step {which}"
        setting = {"best": "training.keep_best", "last": "training.keep_checkpoints"}[which]
        return (
            f"{self.directory}: the mean of the {number} {which} checkpoints was asked for, but only {found} are there "
            f"and good. Ask for at most {found}, or train with {setting}={number} or more"
        )


def restore_variables(directory: Path, which: Which = "best", average: int = 1) -> dict[str, Any]:
    """Return `{"params": …}` from the folder `checkpoints/` of a run.

    Args:
        directory: the folder.
        which: "last", "best" or a step.
        average: the mean of the weights of so many of the newest, or of the best, checkpoints.

    Raises:
        UserError: there is no good checkpoint, or fewer than asked for.
    """
    return CheckpointStore(directory).restore_variables(which, average)


def _best_first(manifests: dict[int, Manifest]) -> list[int]:
    """Return the steps by ascending score, the earlier of equal ones first; then the newest of those without one."""
    scores = {step: manifest.details["score"] for step, manifest in manifests.items()}
    scored = sorted((step for step in scores if scores[step] is not None), key=lambda step: (scores[step], step))
    return scored + sorted((step for step in scores if scores[step] is None), reverse=True)


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
