"""A training run: its directory, its pieces, and the watch over it."""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Collection
from pathlib import Path

from asr.config import Config
from asr.config.reader import to_plain
from asr.distributed import check_agreement, from_main, is_main
from asr.errors import EXIT_OK
from asr.record.log_file import close_logging, open_log_file, setup_logging
from asr.record.run_dir import RunDir, check_run_files, create_run_dir, load_run, open_run_dir
from asr.record.tensorboard import require_tensorboard
from asr.training.bookkeeping import has_checkpoint, list_checkpoints
from asr.training.custom import NO_CUSTOM_PARTS, CustomParts
from asr.training.loop import Training
from asr.training.resumption import Resumption, record_start
from asr.training.setup import Setup, build_setup
from asr.training.warm_start import InitialModel
from asr.watch.interruption import Interruption
from asr.watch.run_lock import only_process
from asr.watch.supervisor import Supervisor

log = logging.getLogger("asr")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that ended.

    Attributes:
        path: its directory, to be read by `asr.load`.
        best_score: lowest error rate on the validation split, of the kind `training.select_by`; infinite before the
            first evaluation.
        exit_code: 0 if it is finished, otherwise that of the reason to stop (docs/reliability.md).
    """

    path: Path
    best_score: float
    exit_code: int

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return self.exit_code == EXIT_OK


def train(
    config: Config,
    *,
    custom: CustomParts = NO_CUSTOM_PARTS,
    resume: Path | None = None,
    allow_changed: Collection[str] = (),
    load_initial: Callable[[str], InitialModel] | None = None,
    max_minutes: float | None = None,
    profile_steps: int = 0,
    tell_run_path: Callable[[str], None] | None = None,
) -> Run:
    """Train until the end of the run or a reason to stop. Called in the main thread.

    Args:
        config: the settings, or those of the run to be resumed.
        custom: parts from outside the package.
        resume: directory of the run to go on with; without it a new one is made.
        allow_changed: names of what may be other than the run was made of, see `asr.record.run_record`.
        load_initial: reads the model that the setting `init` names; not called once the run has a checkpoint.
        max_minutes: save and stop after so many minutes.
        profile_steps: number of steps to trace with the jax profiler.
        tell_run_path: of a process with a guardian: tells it the run directory.

    Raises:
        UserError: data or run directory not usable, or memory that does not suffice.
        NonFiniteError: a loss or gradient is NaN or infinite.
        PeerLostError: another process of the run is gone.
    """
    with Interruption(max_minutes) as interruption:
        supervisor = Supervisor(interruption, config.training.watchdog_minutes, guarded=tell_run_path is not None)

        def work() -> Run:
            with contextlib.ExitStack() as stack:
                stack.callback(close_logging)
                with supervisor.nothing_to_save():
                    run, setup, resumption = open_run(config, custom, resume, allow_changed, load_initial, stack)
                    supervisor.run_path = run.path
                    if tell_run_path:
                        tell_run_path(str(run.path))
                    training = Training(setup, run, supervisor, profile_steps)
                exit_code = training.run_to_end(resumption)
                best = training.progress.best_score
                return Run(run.path, best[0] if best else math.inf, exit_code)

        return supervisor.run(work)


def open_run(
    config: Config,
    custom: CustomParts,
    resume: Path | None,
    allow_changed: Collection[str],
    load_initial: Callable[[str], InitialModel] | None,
    stack: contextlib.ExitStack,
) -> tuple[RunDir, Setup, Resumption | None]:
    """Return the run's directory, held by this process until `stack` is closed, its pieces, and what a resume changes.

    Arguments as of `train`.
    """
    setup_logging()
    config = custom.mark(config)
    require_tensorboard(config.training.tensorboard)
    run = open_run_dir(resume) if resume else None
    if run and is_main():
        stack.enter_context(only_process(run.path))
        for warning in check_run_files(run):
            log.warning("%s", warning)
    trained = load_run(run.path)[1:] if run else None
    resumption = Resumption(run, config, allow_changed) if run else None
    begins = run is None or not has_checkpoint(run)
    setup = build_setup(config, trained, load_initial(config.init) if config.init and begins else None, custom)
    if resumption:
        resumption.compare(setup)
    agreed = {
        "the config": to_plain(setup.config),
        "the tokens": setup.tokenizer.tokens,
        "the texts": setup.train_set.texts(),
    }
    agreed |= {"the number of steps": setup.num_steps, "the folder of checkpoints": list_checkpoints(run)}
    check_agreement(agreed)
    if run is None:
        write_record = functools.partial(record_start, setup=setup)
        made = create_run_dir(setup.config, setup.tokenizer, setup.cmvn, write_record) if is_main() else None
        if made:
            stack.enter_context(only_process(made.path))
        run = RunDir(Path(from_main(str(made.path) if made else None)))
    if is_main():
        open_log_file(run.log_file)
    return run, setup, resumption
