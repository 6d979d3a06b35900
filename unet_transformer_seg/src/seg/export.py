"""Export a trained model as a folder that any program with jax can run: `seg export --run RUN --out FOLDER`."""

import argparse
from pathlib import Path

from seg import api
from seg.cli import run_command
from seg.config.reader import load_config
from seg.errors import EXIT_OK


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg export",
        description="Write settings, classes, weights (safetensors) and program (StableHLO) of a trained model.",
        epilog="Exit codes: 0 written, 2 wrong input.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the new model folder")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="default: best")
    parser.add_argument("--force", action="store_true", help="replace an exported model of this name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example inference.tile=[512,512]")
    return parser.parse_intermixed_args()


def main() -> int:
    """Export the model; return the exit code."""
    arguments = parse_arguments()
    load_config(arguments.run / "config.yaml", arguments.overrides)  # a mistake is answered before jax is imported

    from seg.inference.model_folder import check_target

    check_target(arguments.out, arguments.force)
    model = api.load(arguments.run, checkpoint=arguments.checkpoint, overrides=arguments.overrides)
    api.save(model, arguments.out, force=arguments.force)
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(f"{arguments.out}: {size / 1e6:.1f} MB; README.txt says how to run it")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
