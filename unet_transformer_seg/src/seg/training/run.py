"""A training run: its directory, its pieces, and the watch over it."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from seg.config import Config
from seg.config.reader import to_plain
from seg.distributed import check_agreement, from_main, is_main
from seg.errors import EXIT_OK
from seg.record.log_file import close_logging, open_log_file, setup_logging
from seg.record.run_dir import RunDir, check_run_files, create_run_dir, open_run_dir
from seg.record.tensorboard import require_tensorboard
from seg.training.bookkeeping import has_checkpoint, list_checkpoints
from seg.training.custom import NO_CUSTOM_PARTS, CustomParts
from seg.training.loop import Training
from seg.training.resumption import Resumption, record_start
from seg.training.setup import Setup, build_setup
from seg.training.warm_start import InitialModel
from seg.watch.interruption import Interruption
from seg.watch.run_lock import only_process
from seg.watch.supervisor import Supervisor

log = logging.getLogger("seg")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that ended.

    Attributes:
        path: its directory, to be read by `seg.load`.
        best_score: best mean IoU on the validation split; -1 before the first evaluation.
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
    build_predictor: Callable,
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
        build_predictor: makes the predictor of `seg.inference` that validates, see `seg.training.evaluate`.
        custom: parts from outside the package.
        resume: directory of the run to go on with; without it a new one is made.
        allow_changed: names of what may be other than the run was made of, see `seg.record.run_record`.
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
                    training = Training(setup, run, supervisor, build_predictor, profile_steps)
                exit_code = training.run_to_end(resumption)
                return Run(run.path, training.progress.best_iou, exit_code)

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
    require_tensorboard(config.training.tensorboard)
    config = custom.mark(config)
    run = open_run_dir(resume) if resume else None
    if run and is_main():
        stack.enter_context(only_process(run.path))
        for warning in check_run_files(run):
            log.warning("%s", warning)
    resumption = Resumption(run, config, allow_changed) if run else None
    begins = run is None or not has_checkpoint(run)
    setup = build_setup(config, load_initial(config.init) if config.init and begins else None, custom)
    if resumption:
        resumption.compare(setup)
    agreed = {"the config": to_plain(setup.config), "the number of samples": len(setup.train_set)}
    check_agreement(agreed | {"the folder of checkpoints": list_checkpoints(run)})
    if run is None:
        write_record = functools.partial(record_start, setup=setup)
        made = create_run_dir(setup.config, setup.classes, write_record) if is_main() else None
        if made:
            stack.enter_context(only_process(made.path))
        run = RunDir(Path(from_main(str(made.path) if made else None)))
    if is_main():
        open_log_file(run.log_file)
    return run, setup, resumption
