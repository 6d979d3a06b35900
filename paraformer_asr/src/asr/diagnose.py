"""Repeat a step that was not finite: `asr diagnose RUN/non_finite_step_00000012`."""

import argparse
from pathlib import Path

from asr.cli import run_command
from asr.config.reader import load_config
from asr.errors import EXIT_OK, UserError


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr diagnose",
        description="Repeat a non-finite step operation by operation, and name the first module whose output is not "
        "finite. Change settings to see whether they help.",
    )
    parser.add_argument("folder", type=Path, help="written by the run: RUN/non_finite_step_…")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example model.dtype=float32")
    return parser.parse_intermixed_args()


def main() -> int:
    """Print the diagnosis; return the exit code."""
    arguments = parse_arguments()
    if not arguments.folder.is_dir():
        raise UserError(f"{arguments.folder}: no such folder; expected RUN/non_finite_step_…")
    config = load_config(arguments.folder.parent / "config.yaml", arguments.overrides)

    from asr.training.diagnosis import diagnose  # imports jax: after the config was checked
    from asr.training.non_finite import load_reproducer
    from asr.training.setup import build_setup

    setup = build_setup(config)
    state, batch = load_reproducer(arguments.folder, setup)
    print(f"step {int(state.step) + 1} of {arguments.folder.parent}")
    for line in diagnose(setup, state, batch):
        print(f"  {line}")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
