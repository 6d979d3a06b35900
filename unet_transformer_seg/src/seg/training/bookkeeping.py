"""What a run remembers besides its state, and whether there is anything to go on from."""

import dataclasses
from pathlib import Path

from seg.errors import UserError
from seg.record.run_dir import RunDir


@dataclasses.dataclass
class Progress:
    """What the loop remembers besides the state; saved with each checkpoint.

    Attributes:
        best_iou: best mean IoU of an evaluation so far.
        evaluations_since_best: for early stopping.
        loss_sum: sum of the training losses since the last evaluation.
        loss_count: number of steps in `loss_sum`.
        seconds: time spent on the run, over all its parts.
        evaluation_due: whether the run was stopped during the evaluation of this state.
    """

    best_iou: float = -1.0
    evaluations_since_best: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    evaluation_due: bool = False


def read_progress(stored: dict, run_path: Path) -> Progress:
    """Return what a checkpoint remembers besides the state.

    Raises:
        UserError: it is not what `Progress` holds.
    """
    kinds = {field.name: int | float for field in dataclasses.fields(Progress)}
    if not all(name in kinds and isinstance(value, kinds[name]) for name, value in stored.items()):
        raise UserError(f"{run_path}: the checkpoint's progress was not written by this program: {stored!r:.200}")
    return Progress(**stored)


def has_checkpoint(run: RunDir) -> bool:
    """Return whether the run saved a checkpoint, be it damaged by now."""
    return bool(list_checkpoints(run))


def list_checkpoints(run: RunDir | None) -> list[str]:
    """Return the names of the checkpoints' folders; none of a run that is to be begun."""
    return sorted(path.name for path in run.checkpoints.glob("step_*")) if run else []
