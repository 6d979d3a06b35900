"""What the record of a run says of its evaluations so far, held against its checkpoints when it is resumed."""

import logging
from pathlib import Path

from asr.errors import UserError

log = logging.getLogger("asr")

MAX_STEPS_SHOWN = 8


def check_begun_only(checkpoints: Path, steps: dict[Path, set[int]]) -> None:
    """Refuse to begin anew a run that was evaluated more than once: a checkpoint followed each evaluation.

    Args:
        checkpoints: their folder, in which there is none.
        steps: by file of the record, those after which it has an evaluation.

    Raises:
        UserError: the checkpoints are lost.
    """
    known = sorted(set().union(*steps.values()))
    if len(known) > 1:
        raise UserError(
            f"{checkpoints}: there is no checkpoint, although the run was evaluated {len(known)} times, last after "
            f"step {known[-1]}: the checkpoints are lost. Put them back, or begin a new run with --config"
        )


def say_what_is_missing(steps: dict[Path, set[int]], evaluated: bool) -> None:
    """Warn of evaluations that one file of the record has and another has not.

    Args:
        steps: by file, those after which it has an evaluation.
        evaluated: whether the checkpoint was evaluated, or one before it.
    """
    known = set().union(*steps.values())
    for path, found in steps.items():
        if lost := sorted(known - found):
            shown = ", ".join(map(str, lost[:MAX_STEPS_SHOWN])) + (", …" if lost[MAX_STEPS_SHOWN:] else "")
            log.warning("%s: the evaluations after %d steps are missing there: %s", path, len(lost), shown)
        elif evaluated and not known:
            log.warning("%s: the evaluations of the run so far are missing there", path)
