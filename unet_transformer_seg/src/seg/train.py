"""Train a model: `python -m seg.train --config CONFIG [key=value …]`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from seg.cli import run_training_command
from seg.config import Config
from seg.config.reader import load_start_config, override_config, to_plain
from seg.errors import EXIT_OK, EXIT_UNFINISHED, UserError
from seg.record.record_file import ALLOWED_NAMES, load_own_config
from seg.record.resume_rules import keep_decided
from seg.signals import EXIT_CODES
from seg.watch.parent_process import run_guarded


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m seg.train",
        description="Train a segmentation model and leave a full record in a run directory.",
        epilog="Exit codes: 0 finished, 2 wrong input, 3 non-finite loss or gradient, 4 nothing completed in "
        "training.watchdog_minutes, 5 another process of the run is gone, "
        f"{EXIT_UNFINISHED} --max-minutes is over; after a signal {EXIT_CODES}. "
        "--max-minutes and signals save first, and the last message says how to resume.",
    )
    parser.add_argument("--config", type=Path, help="YAML file; needed unless --resume is given")
    parser.add_argument(
        "--init", metavar="FOLDER", help="begin with the weights of this model folder or run (setting: init)"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this run directory")
    parser.add_argument(
        "--allow-changed",
        metavar="NAMES",
        default="",
        help="with --resume: go on although this is not what the run was made of, separated by commas: "
        "data (samples or their contents), classes (names and colours), config (a config.yaml edited by hand)",
    )
    parser.add_argument("--max-minutes", type=float, help="save and stop after so many minutes, to be resumed")
    parser.add_argument("--profile", type=int, default=0, metavar="STEPS", help="trace so many steps for Perfetto")
    parser.add_argument(
        "--dry-run", action="store_true", help="print parameters, memory and operations of a step, and train nothing"
    )
    several = parser.add_argument_group("several processes, one command each")
    several.add_argument(
        "--distributed", action="store_true", help="this is one process of a job; SLURM, Open MPI, Kubernetes say which"
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens, if nobody says so")
    several.add_argument("--num-processes", type=int, metavar="N", help="of the job")
    several.add_argument("--process-id", type=int, metavar="I", help="of this one, from 0")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example training.num_epochs=5")
    return parser.parse_intermixed_args()


def read_config(arguments: argparse.Namespace) -> Config:
    """Return the config that the arguments name: of the file, or of the run to be resumed."""
    if arguments.resume is None:
        if arguments.config is None:
            raise UserError("give --config FILE to start a run, or --resume RUN to go on with one")
        init = [] if arguments.init is None else [f"init={json.dumps(arguments.init, ensure_ascii=False)}"]
        return load_start_config(arguments.config, [*arguments.overrides, *init])
    if arguments.init is not None or any(override.startswith("init=") for override in arguments.overrides):
        raise UserError("--init begins a new run: give it with --config. A resumed run goes on with its own weights")
    if not arguments.resume.is_dir():
        raise UserError(f"--resume: expected a run directory, such as runs/20250131_120000_name, at {arguments.resume}")
    own = load_own_config(arguments.resume)
    config = keep_decided(own, override_config(own, arguments.overrides))
    if arguments.config is not None:
        given = load_start_config(arguments.config, arguments.overrides)
        given = keep_decided(config, given)
        if differing := _differences(to_plain(given), to_plain(config)):
            raise UserError(
                f"{arguments.resume} was started with other settings than {arguments.config}: "
                f"{', '.join(differing)}. Leave --config out to resume with the run's own."
            )
    return config


def allowed_names(arguments: argparse.Namespace) -> list[str]:
    """Return what may be other than the run was made of.

    Raises:
        UserError: an unknown name, or no run to resume.
    """
    names = [name.strip() for name in arguments.allow_changed.split(",") if name.strip()]
    if unknown := [name for name in names if name not in ALLOWED_NAMES]:
        raise UserError(f"--allow-changed: expected some of {', '.join(ALLOWED_NAMES)}, found {unknown[0]!r:.80}")
    if names and arguments.resume is None:
        raise UserError("--allow-changed goes with --resume: a new run has nothing to be compared with")
    return names


def _differences(one: dict, other: dict, prefix: str = "") -> list[str]:
    """Return the keys whose values differ, with dots between sections."""
    found = []
    for key, value in one.items():
        if isinstance(value, dict) and value.keys() == other[key].keys():
            found += _differences(value, other[key], f"{prefix}{key}.")
        elif value != other[key]:
            found.append(f"{prefix}{key}")
    return found


def main() -> int:
    """Start or resume a run; return the exit code."""
    arguments = parse_arguments()
    allowed_names(arguments)
    config = read_config(arguments)
    check_distributed(arguments)
    if arguments.distributed:
        return run_guarded(lambda tell_run_path: start(arguments, config, tell_run_path))
    return start(arguments, config)


def check_distributed(arguments: argparse.Namespace) -> None:
    """Refuse an incomplete description of this process."""
    given = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if any(value is not None for value in given) and not (arguments.distributed and None not in given):
        raise UserError("--coordinator, --num-processes and --process-id go together, with --distributed")


def start(arguments: argparse.Namespace, config: Config, tell_run_path: Callable[[str], None] | None = None) -> int:
    """Train, or tell what training would need, in this process; return the exit code."""
    if arguments.distributed:
        from seg.distributed import initialize

        initialize(arguments.coordinator, arguments.num_processes, arguments.process_id)
    if arguments.dry_run:
        from seg.profiling.dry_run import describe_run

        print(describe_run(config))
        return EXIT_OK
    from seg.inference.predictor import Predictor  # imports jax: after the config was found good
    from seg.training.run import train

    run = train(
        config,
        build_predictor=Predictor,
        resume=arguments.resume,
        allow_changed=allowed_names(arguments),
        load_initial=load_initial,
        max_minutes=arguments.max_minutes,
        profile_steps=arguments.profile,
        tell_run_path=tell_run_path,
    )
    return run.exit_code


def load_initial(folder: str):
    """Return the model in a model folder, or the best one of a run, to begin with (`InitialModel`)."""
    from seg.inference.predictor import load_predictor
    from seg.training.warm_start import InitialModel

    predictor = load_predictor(folder)
    return InitialModel(folder, predictor.classes, predictor.variables)


if __name__ == "__main__":
    run_training_command(main)
