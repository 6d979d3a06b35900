"""A training run: opens its directory, assembles its pieces and hooks, and drives the loop under supervision."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax

from asr.compiler import CompiledStep
from asr.config import Config
from asr.config.reader import to_plain
from asr.custom import NO_CUSTOM_PARTS, CustomParts
from asr.distributed import check_agreement, from_main, is_main
from asr.errors import EXIT_OK, EXIT_TERMINATED, NonFiniteError
from asr.models import count_parameters
from asr.record.environment import describe_environment
from asr.record.log_file import close_logging, open_log_file, setup_logging
from asr.record.recorder import Recorder
from asr.record.report import Report
from asr.record.resumption import Resumption, record_start
from asr.record.run_dir import RunDir, check_run_files, create_run_dir, load_run, open_run_dir
from asr.record.tensorboard import require_tensorboard
from asr.training.evaluate import evaluate
from asr.training.loop import Training
from asr.training.non_finite import NonFinitePolicy
from asr.training.optimizer import build_schedule
from asr.training.parameter_groups import describe_groups, has_groups
from asr.training.setup import Setup, build_setup
from asr.training.sharding import describe_devices
from asr.training.state import TrainState, read_progress
from asr.training.warm_start import InitialModel
from asr.watch.hook import Hook
from asr.watch.interruption import Interruption
from asr.watch.run_lock import only_process
from asr.watch.supervisor import Supervisor

log = logging.getLogger("asr")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that ended or was stopped.

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
        """Whether nothing is left to train."""
        return self.exit_code == EXIT_OK


def train(
    config: Config,
    *,
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

    Arguments as of `asr.train`; but `custom` holds the parts from outside the package, and `load_initial` reads the
    model that the setting `init` names, unless the run has a checkpoint already. If `owns_process`, a run that hangs,
    or a signal before the first step, may end the process; if not, the caller gets a UserError or a KeyboardInterrupt.
    `report_resume_command` is called with the command that resumes the run, in a process that its parent watches.

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
                    training, report = assemble(setup, run, supervisor, hooks)
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
    trained = load_run(run.path)[1:] if run else custom.trained
    resumption = Resumption(run, config, allow_changed) if run else None
    checkpoints = run.list_checkpoints() if run else []
    initial = load_initial(config.init) if config.init and not checkpoints else None
    setup = build_setup(config, trained, initial, custom)
    if resumption:
        resumption.compare(setup)
    agreed = {
        "the config": to_plain(setup.config),
        "the tokens": setup.tokenizer.tokens,
        "the texts": setup.train_set.texts(),
        "the number of steps": setup.num_steps,
        "the folder of checkpoints": checkpoints,
    }
    check_agreement(agreed)
    if run is None:
        write_record = functools.partial(record_start, setup=setup)
        made = create_run_dir(setup.config, setup.tokenizer, setup.cmvn, write_record) if is_main() else None
        if made:
            stack.enter_context(only_process(made.path))
        run = RunDir(Path(from_main(str(made.path) if made else None)))
    run.resume_command = custom.resume_command(run.path) or run.resume_command
    if is_main():
        open_log_file(run.log_file)
    return run, setup, resumption


def assemble(
    setup: Setup, run: RunDir, supervisor: Supervisor, more_hooks: Sequence[Hook]
) -> tuple[Training, Report | None]:
    """Return the loop with its hooks, and the report that this process writes."""
    config, report = setup.config.training, None
    hooks = [NonFinitePolicy()]
    if is_main():
        report = Report(run, setup.config)
        hooks.append(Recorder(report, config.log_every_steps))
    eval_step = CompiledStep(setup.eval_step, supervisor.result_of)
    score = functools.partial(evaluate, setup, supervisor=supervisor, eval_step=eval_step)
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
        report.results.drop_after(step, evaluated=training.progress.best_score is not None)
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
    run, progress, settings = training.run, training.progress, training.setup.config.training
    best = progress.best_score[0] if progress.best_score else math.inf
    if progress.evaluation_due or not training.finished(step):
        log.info("stopped at step %d; resume with: %s", step, run.resume_command)
        return Run(run.path, best, training.supervisor.interruption.exit_code or EXIT_TERMINATED)
    if training.stopped_early:
        log.info("stopped early: no lower error rate in %d evaluations", settings.early_stop)
    name = settings.select_by.upper()
    log.info("finished with a best %s of %.2f %%; the record is in %s", name, 100 * best, run.path)
    return Run(run.path, best, EXIT_OK)


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
        "%s with %s parameters and %d tokens; %d training utterances (%.2f hours), %d for validation; "
        "step %d of %d, %d steps an epoch; %s",
        setup.config.model.name,
        f"{count_parameters(state.params):,}",
        setup.tokenizer.vocab_size,
        len(setup.loader.kept),
        setup.train_set.durations_s()[setup.loader.kept].sum() / 3600,
        len(setup.val_set),
        int(state.step),
        setup.num_steps,
        setup.loader.steps_per_epoch,
        describe_devices(setup.placement),
    )
    rate_hz, padding = setup.config.features.sample_rate_hz, setup.loader.plan.padding_share(0)
    shapes = ", ".join(f"{shape.batch_size} × {shape.num_samples / rate_hz:g} s" for shape in setup.loader.plan.shapes)
    log.info("batches of %s; %.1f %% of them is padding", shapes, 100 * padding)
    for line in setup.warm_start.lines if setup.warm_start else ():
        log.info("%s", line)
    if has_groups(setup.config.optimizer):
        log.info("%s", describe_groups(setup.config.optimizer, state.params))
