"""A training run: opens its directory, assembles its pieces and hooks, and drives the loop under supervision."""

import contextlib
import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax

from seg.compiler import CompiledStep
from seg.config import Config
from seg.config.reader import to_plain
from seg.custom import NO_CUSTOM_PARTS, CustomParts
from seg.distributed import check_agreement, from_main, is_main
from seg.errors import EXIT_OK, EXIT_TERMINATED, NonFiniteError
from seg.models import count_parameters
from seg.record.environment import describe_environment
from seg.record.log_file import close_logging, open_log_file, setup_logging
from seg.record.recorder import Recorder, SeenClasses
from seg.record.report import Report
from seg.record.resumption import Resumption, record_start
from seg.record.run_dir import RunDir, check_run_files, create_run_dir, open_run_dir
from seg.record.tensorboard import require_tensorboard
from seg.training.evaluate import evaluate
from seg.training.loop import Training
from seg.training.non_finite import NonFinitePolicy
from seg.training.optimizer import build_schedule
from seg.training.parameter_groups import describe_groups, has_groups
from seg.training.setup import Setup, build_setup
from seg.training.sharding import describe_devices
from seg.training.state import TrainState, read_progress
from seg.training.warm_start import InitialModel
from seg.watch.hook import Hook
from seg.watch.interruption import Interruption
from seg.watch.run_lock import only_process
from seg.watch.supervisor import Supervisor

log = logging.getLogger("seg")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that ended or was stopped."""

    path: Path  # its directory, to be read by `seg.load`
    best_score: float  # best mean IoU on the validation split; -1 before the first evaluation
    exit_code: int  # 0 if it is finished, otherwise that of the reason to stop (docs/reliability.md)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.exit_code == EXIT_OK


def train(
    config: Config,
    *,
    build_predictor: Callable,
    custom: CustomParts = NO_CUSTOM_PARTS,
    hooks: Sequence[Hook] = (),
    resume: Path | None = None,
    allow_changed: Collection[str] = (),
    load_initial: Callable[[str], InitialModel] | None = None,
    max_minutes: float | None = None,
    owns_process: bool = False,
    report_resume_command: Callable[[str], None] | None = None,
) -> Run:
    """Train to the end of the run or a reason to stop.

    Signals stop the run after it has been saved, if this is called in the main thread.

    Args:
        config: the settings, or those of the run that is resumed.
        build_predictor: makes the predictor of `seg.inference` that validates, see `seg.training.evaluate`.
        custom: parts from outside the package.
        hooks: what listens besides the run's own hooks; called after them.
        resume: directory of the run to resume; without it a new one is made.
        allow_changed: names of what may have changed since the run was made, see `seg.record.run_record`.
        load_initial: reads the model that the setting `init` names; not called once the run has a checkpoint.
        max_minutes: save and stop after this time.
        owns_process: whether a run that hangs, or a signal before the first step, may end the process. If not, the
            caller gets a UserError or a KeyboardInterrupt.
        report_resume_command: called with the command that resumes the run, in a process that is watched by its parent.

    Raises:
        UserError: data or run directory not usable, or too little memory.
        NonFiniteError: a loss or gradient is NaN or infinite.
        PeerLostError: another process of the run is gone.
    """
    guarded, minutes = report_resume_command is not None, config.training.watchdog_minutes
    with Interruption(max_minutes, owns_process) as interruption:
        supervisor = Supervisor(interruption, minutes, guarded=guarded, owns_process=owns_process)

        def work() -> Run:
            with contextlib.ExitStack() as stack:
                stack.callback(close_logging)
                with supervisor.nothing_to_save():
                    run, setup, resumption = open_run(config, custom, resume, allow_changed, load_initial, stack)
                    supervisor.run_dir = run
                    if report_resume_command:
                        report_resume_command(run.resume_command)
                    training, report = assemble(setup, run, supervisor, build_predictor, hooks)
                    state = begin(training, resumption, report)
                    for hook in training.hooks:
                        hook.on_start(training, int(state.step))
                        stack.callback(hook.on_end)
                return run_to_end(training, state)

        return supervisor.run(work)


def open_run(
    config: Config,
    custom: CustomParts,
    resume: Path | None,
    allow_changed: Collection[str],
    load_initial: Callable[[str], InitialModel] | None,
    stack: contextlib.ExitStack,
) -> tuple[RunDir, Setup, Resumption | None]:
    """Return the run's directory, locked until `stack` is closed, its pieces, and what a resume changes.

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
    checkpoints = run.list_checkpoints() if run else []
    initial = load_initial(config.init) if config.init and not checkpoints else None
    setup = build_setup(config, initial, custom, is_settled=run is not None)
    if resumption:
        resumption.compare(setup)
    agreed = {"the config": to_plain(setup.config), "the number of samples": len(setup.train_set)}
    check_agreement(agreed | {"the folder of checkpoints": checkpoints})
    if run is None:
        write_record = functools.partial(record_start, setup=setup)
        made = create_run_dir(setup.config, setup.classes, write_record) if is_main() else None
        if made:
            stack.enter_context(only_process(made.path))
        run = RunDir(Path(from_main(str(made.path) if made else None)))
    run.resume_command = custom.resume_command(run.path) or run.resume_command
    if is_main():
        open_log_file(run.log_file)
    return run, setup, resumption


def assemble(
    setup: Setup, run: RunDir, supervisor: Supervisor, build_predictor: Callable, more_hooks: Sequence[Hook]
) -> tuple[Training, Report | None]:
    """Return the loop with its hooks, and the report that this process writes."""
    config, report = setup.config.training, None
    hooks = [NonFinitePolicy()]
    if is_main():
        report = Report(run, setup.config, setup.classes)
        hooks.append(Recorder(report, config.log_every_steps))
    if jax.process_count() == 1:  # one of several reads only a share of the samples
        hooks.append(SeenClasses(setup.classes.names, setup.loader.steps_per_epoch))
    eval_step = CompiledStep(setup.eval_step, supervisor.result_of)
    score = functools.partial(
        evaluate, setup, supervisor=supervisor, eval_step=eval_step, build_predictor=build_predictor
    )
    return Training(setup, run, supervisor, [*hooks, *more_hooks], score), report


def begin(training: Training, resumption: Resumption | None, report: Report | None) -> TrainState:
    """Return the first state, or that of the newest good checkpoint."""
    setup, run = training.setup, training.run
    if run.list_checkpoints():
        state, stored = training.store.restore(setup.abstract_state, "last")
        training.progress = read_progress(stored, run.path)
    else:
        if resumption and report:
            report.results.check_only_begun(run.checkpoints)
        if resumption:
            log.info("the run ended before its first checkpoint: it starts from the beginning")
        state = training.supervisor.result_of(setup.init)
        state = setup.warm_start.apply(state) if setup.warm_start else state
    step = int(state.step)
    if resumption:
        finished = training.finished(step) and not training.progress.evaluation_due
        resumption.begin(step, finished, training.stopped_early, build_schedule)
    if resumption and report:
        report.results.drop_after(step, evaluated=training.progress.best_iou >= 0)
    log_start(training, state)
    return state


def run_to_end(training: Training, state: TrainState) -> Run:
    """Train, and log how it ended."""
    try:
        step = training.train(state)
    except NonFiniteError as error:
        log.error("stopped: %s", error)
        raise
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        raise explain(training, error) from error
    run, progress = training.run, training.progress
    if progress.evaluation_due or not training.finished(step):
        log.info("stopped at step %d; resume with: %s", step, run.resume_command)
        return Run(run.path, progress.best_iou, training.supervisor.interruption.exit_code or EXIT_TERMINATED)
    if training.stopped_early:
        patience = training.setup.config.training.early_stop
        log.info("stopped early: no better mean IoU in %d evaluations", patience)
    log.info("finished with a best mean IoU of %.4f; the record is in %s", progress.best_iou, run.path)
    return Run(run.path, progress.best_iou, EXIT_OK)


def explain(training: Training, error: Exception) -> Exception:
    """Return the error to raise instead of one from jax: the first explanation of a hook, and how to resume."""
    for hook in training.hooks:
        if explained := hook.explain(error):
            hint = f"resume with: {training.run.resume_command}"
            return type(explained)(f"{explained}\n{training.last_checkpoint}; {hint}")
    return error


def log_start(training: Training, state: TrainState) -> None:
    """Log what is trained, from which step on, and on which devices."""
    setup = training.setup
    log.info("run directory %s", training.run.path)
    log.debug("environment %s", json.dumps(describe_environment()))  # a resume may run on other versions
    log.info(
        "%s with %s parameters; %d training and %d validation samples; step %d of %d, %d steps an epoch; %s",
        setup.config.model.name,
        f"{count_parameters(state.params):,}",
        len(setup.train_set),
        len(setup.val_set),
        int(state.step),
        setup.num_steps,
        setup.loader.steps_per_epoch,
        describe_devices(setup.placement),
    )
    for note in setup.train_set.notes:
        log.warning("warning: %s", note)
    for line in setup.warm_start.lines if setup.warm_start else ():
        log.info("%s", line)
    if has_groups(setup.config.optimizer):
        log.info("%s", describe_groups(setup.config.optimizer, state.params))
