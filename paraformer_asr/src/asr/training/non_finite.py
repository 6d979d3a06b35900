"""What happens when a step is not finite: it is skipped, or saved, diagnosed, and the run stops."""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from asr.checkpoints.arrays import describe_arrays, named_arrays, read_arrays, write_arrays
from asr.checkpoints.manifest import DamagedCheckpointError, read_manifest, verify_files, write_manifest
from asr.distributed import is_main
from asr.errors import NonFiniteError, UserError
from asr.files import open_file
from asr.record.run_dir import RunDir
from asr.training.diagnosis import diagnose, name_items
from asr.training.setup import Setup
from asr.training.state import TrainState
from asr.watch.hook import Hook, StepInfo

log = logging.getLogger("asr")

MAX_SKIPPED_IN_A_ROW = 20
"""This many non-finite steps in a row mean divergence: the run stops even with `training.on_non_finite: skip`."""

MAX_ITEMS_SHOWN = 16

ARRAYS_NAME, BATCH_NAME = "arrays", "batch.npz"


class NonFinitePolicy(Hook):
    """Applies `training.on_non_finite` to each step that is not finite."""

    def on_start(self, training: Any, step: int) -> None:
        """Begin to count."""
        self._training, self._skipped_in_a_row = training, 0

    def on_step(self, info: StepInfo) -> None:
        """Warn of a step that the device left out, or save what led to it and stop."""
        if info.finite:
            self._skipped_in_a_row = 0
            return
        setup = self._training.setup
        self._skipped_in_a_row += 1
        if setup.config.training.on_non_finite == "skip" and self._skipped_in_a_row < MAX_SKIPPED_IN_A_ROW:
            items = ", ".join(name_items(setup, info.batch)[:MAX_ITEMS_SHOWN])
            log.warning("%s; the step is skipped. Its items: %s", _describe(info), items)
            return
        state = info.state
        state = state.replace(step=state.step * 0 + info.step - 1)  # before the step, with the same sharding
        folder = save_reproducer(self._training.run, state, info.batch, info.step)
        lines = diagnose(setup, state, info.batch) if jax.process_count() == 1 else []
        raise NonFiniteError(
            f"{_describe(info)}.\n" + "".join(f"  {line}\n" for line in lines) + f"State and batch are in {folder}; "
            f"repeat the diagnosis with: python -m asr.diagnose {folder}\n{self._training.last_checkpoint}. Try a "
            "lower optimizer.learning_rate, a smaller optimizer.clip_norm, model.dtype=float32, or "
            "training.on_non_finite=skip"
        )


def _describe(info: StepInfo) -> str:
    return f"step {info.step}: the loss is {info.values['loss']} and the gradient's norm {info.values['grad_norm']}"


def save_reproducer(run: RunDir, state: TrainState, batch: dict[str, np.ndarray], step: int) -> Path:
    """Write the state before the step and its batch; return the folder. All processes of a run call this."""
    folder = run.path / f"non_finite_step_{step:08d}"
    if jax.process_count() > 1:
        batch = {name: multihost_utils.process_allgather(array, tiled=True) for name, array in batch.items()}
    try:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
        write_arrays(folder / ARRAYS_NAME, state)
        if is_main():
            np.savez(folder / BATCH_NAME, **batch)
            write_manifest(folder, {"step": step})
    except OSError as error:
        raise UserError(f"{folder}: state and batch cannot be written ({error.strerror or error})") from error
    return folder


def load_reproducer(folder: Path, setup: Setup) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Return the state and the batch that `save_reproducer` wrote."""
    try:
        verify_files(folder, read_manifest(folder))
    except DamagedCheckpointError as error:
        raise UserError(f"{folder}: expected a folder non_finite_step_… of a run: {error}") from None
    restored = read_arrays(folder / ARRAYS_NAME, named_arrays(setup.abstract_state))
    state = jax.tree.unflatten(
        jax.tree.structure(setup.abstract_state), [restored[name] for name in describe_arrays(setup.abstract_state)]
    )
    with open_file(folder / BATCH_NAME) as file, np.load(file, allow_pickle=False) as arrays:
        return state, {name: arrays[name] for name in arrays.files}
