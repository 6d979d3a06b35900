"""Train a model: `asr train --config CONFIG [key=value …]`, or `python -m asr.train …`."""

import argparse
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr import api
from asr.allocator import keep_freed
from asr.cli import run_training_command
from asr.config import Config
from asr.errors import EXIT_OK, EXIT_UNFINISHED, UserError
from asr.signals import EXIT_CODES
from asr.watch.parent_process import run_guarded


class _CallableModule(types.ModuleType):
    """Makes `asr.train(config)` work once this module, which has the same name, is imported."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return api.train(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr train",
        description="Train a Paraformer and keep a full record in a run directory.",
        epilog="Exit codes: 0 finished, 2 wrong input, 3 non-finite loss or gradient, 4 nothing completed in "
        "training.watchdog_minutes, 5 another process of the run died, "
        f"{EXIT_UNFINISHED} --max-minutes is over; after a signal {EXIT_CODES}. "
        "--max-minutes and signals save first, and the last message says how to resume.",
    )
    parser.add_argument(
        "--config", type=Path, help="YAML file, or the name of a packaged config (asr configs lists them)"
    )
    parser.add_argument("--init", metavar="FOLDER", help="start from the weights of this model folder or run (init)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in this run directory")
    parser.add_argument(
        "--allow-changed",
        metavar="NAMES",
        default="",
        help="with --resume: continue although these, separated by commas, differ from what the run was made of: "
        "data (utterances, texts or sounds), tokenizer and normalisation (these files of the run directory), "
        "config (a config.yaml edited by hand)",
    )
    parser.add_argument("--max-minutes", type=float, help="save and stop after this time; resume with --resume")
    parser.add_argument("--profile", type=int, default=0, metavar="STEPS", help="trace this many steps for Perfetto")
    parser.add_argument(
        "--dry-run", action="store_true", help="print parameters, memory and operations of a step; train nothing"
    )
    several = parser.add_argument_group("several processes, one command each")
    several.add_argument(
        "--distributed", action="store_true", help="one process of a job; found by SLURM, Open MPI or Kubernetes"
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0; detected under SLURM, Open MPI, Kubernetes"
    )
    several.add_argument("--num-processes", type=int, metavar="N", help="processes in the job")
    several.add_argument("--process-id", type=int, metavar="I", help="number of this process, from 0")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example training.num_epochs=5")
    return parser.parse_intermixed_args()


def read_config(arguments: argparse.Namespace) -> Config:
    """Return the config that the arguments name: that of the file, or of the run to resume."""
    if arguments.resume is None and arguments.config is None:
        raise UserError("give --config FILE to start a run, or --resume RUN to resume one")
    if arguments.resume is not None and (arguments.init or any(o.startswith("init=") for o in arguments.overrides)):
        raise UserError("--init starts a new run, so it needs --config; --resume already has weights")
    init = [] if arguments.init is None else [f"init={json.dumps(arguments.init, ensure_ascii=False)}"]
    return api.read_config(arguments.config, arguments.resume, [*arguments.overrides, *init])


def allowed_names(arguments: argparse.Namespace) -> list[str]:
    """Return what may differ from what the run was made of.

    Raises:
        UserError: an unknown name, or no run to resume.
    """
    names = [name.strip() for name in arguments.allow_changed.split(",") if name.strip()]
    api.check_allow_changed(names, arguments.resume)
    return names


def check_distributed(arguments: argparse.Namespace) -> None:
    """Refuse an incomplete description of this process."""
    values = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if any(value is not None for value in values) and not (arguments.distributed and None not in values):
        raise UserError("--coordinator, --num-processes and --process-id go together, with --distributed")


def main() -> int:
    """Start or resume a run; return the exit code."""
    arguments = parse_arguments()
    allowed_names(arguments)
    config = read_config(arguments)
    check_distributed(arguments)
    if arguments.distributed:
        return run_guarded(lambda report_resume_command: start(arguments, config, report_resume_command))
    return start(arguments, config)


def start(
    arguments: argparse.Namespace, config: Config, report_resume_command: Callable[[str], None] | None = None
) -> int:
    """Train, or describe a step, in this process; return the exit code."""
    if config.training.keep_freed:
        keep_freed()
    if arguments.distributed:
        from asr.distributed import initialize

        initialize(arguments.coordinator, arguments.num_processes, arguments.process_id)
    if arguments.dry_run:
        from asr.profiling.dry_run import describe_run

        print(describe_run(config))
        return EXIT_OK
    return api.train(
        config,
        resume=arguments.resume,
        allow_changed=allowed_names(arguments),
        max_minutes=arguments.max_minutes,
        profile_steps=arguments.profile,
        owns_process=True,
        report_resume_command=report_resume_command,
    ).exit_code


if __name__ == "__main__":
    run_training_command(main)
