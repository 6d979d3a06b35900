"""Repeat a step that was not finite: `seg diagnose RUN/non_finite_step_00000012`."""

import argparse
from pathlib import Path

from seg.cli import run_command
from seg.config.reader import load_config
from seg.errors import EXIT_OK, UserError


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg diagnose",
        description="Repeat a step that was not finite, operation by operation, and name the first module whose output "
        "is not finite. Change settings to see whether they help.",
    )
    parser.add_argument("folder", type=Path, help="written by the run: RUN/non_finite_step_…")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example model.dtype=float32")
    return parser.parse_intermixed_args()


def main() -> int:
    """Print the finding; return the exit code."""
    arguments = parse_arguments()
    if not arguments.folder.is_dir():
        raise UserError(f"{arguments.folder}: expected a folder RUN/non_finite_step_… of a run")
    config = load_config(arguments.folder.parent / "config.yaml", arguments.overrides)

    from seg.training.diagnosis import diagnose  # imports jax: after the config was checked
    from seg.training.non_finite import load_reproducer
    from seg.training.setup import build_setup

    setup = build_setup(config, is_settled=True)
    state, batch = load_reproducer(arguments.folder, setup)
    print(f"step {int(state.step) + 1} of {arguments.folder.parent}")
    for line in diagnose(setup, state, batch):
        print(f"  {line}")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
