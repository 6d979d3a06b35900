"""Plan a run by its data: `seg plan FOLDER [--minutes N]`, or `seg plan --config CONFIG`."""

import argparse
import shlex
import sys
from pathlib import Path

from seg.arguments import part_inputs
from seg.cli import run_command
from seg.config.reader import load_start_config
from seg.errors import EXIT_OK, UserError
from seg.files import replace_text
from seg.untrusted import indented


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg plan",
        description="Read a data set, propose the settings of a run, measure what it costs on this machine, and write "
        "a config with the reason of each setting beside it, for `seg train --config`.",
        epilog="Exit codes: 0 the config is written, 2 wrong input.",
    )
    parser.add_argument("--config", type=Path, help="plan for the data of this config, whose other settings are kept")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("plan.yaml"), help="config to write (default: plan.yaml)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file that --out names")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="time for one run, or one fold, on this machine: the widest network and the most epochs that fit",
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FOLDER",
        help="the folder with images and masks, and settings to keep as key=value, for example model.base_width=16",
    )
    return parser.parse_intermixed_args()


def check_arguments(arguments: argparse.Namespace, folders: list[Path]) -> None:
    """Refuse contradictory arguments, and a file that would be overwritten."""
    if (arguments.config is None) == (not folders) or len(folders) > 1:
        raise UserError("expected one folder of images and masks, or --config FILE: seg plan my_data")
    if arguments.minutes is not None and not 0.1 <= arguments.minutes <= 1e6:
        raise UserError(f"--minutes: expected a number of minutes from 0.1, found {arguments.minutes:g}")
    if arguments.out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out {arguments.out}: expected a name that ends in .yaml")
    if arguments.out.exists() and not arguments.force:
        raise UserError(f"--out {arguments.out}: exists already; choose another name, or replace it with --force")
    if not arguments.out.absolute().parent.is_dir():
        raise UserError(f"--out {arguments.out}: there is no folder {arguments.out.absolute().parent}")


def main() -> int:
    """Read, propose, measure, write; return the exit code."""
    arguments = parse_arguments()
    folders, overrides = part_inputs(arguments.inputs)
    check_arguments(arguments, folders)
    if arguments.config:
        load_start_config(arguments.config, overrides)  # a mistake is answered before jax is imported

    from tqdm import tqdm

    from seg.planning.plan import find_folder, plan_run, read_stated

    def progress(items, **labels):
        return tqdm(items, unit="image", disable=None, file=sys.stderr, **labels)

    base, kept = read_stated(arguments.config, overrides) if arguments.config else find_folder(folders[0], overrides)
    plan = plan_run(base, kept, arguments.minutes, progress, note)
    command = f"seg plan {shlex.join(sys.argv[1:])}"
    replace_text(arguments.out, plan.text(command))
    load_start_config(arguments.out)  # what is written can be trained
    print(indented(plan.summary()))
    print(f"config: {arguments.out}")
    folds = " --folds" if plan.config.data.num_folds else ""
    print(f"train:  seg train --config {shlex.quote(str(arguments.out))}{folds}")
    return EXIT_OK


def note(text: str) -> None:
    """Print a remark on the work in progress."""
    print(indented(text), file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
