"""Export a trained model to a folder that any jax program can run: `asr export --run RUN --out FOLDER`."""

import argparse
from pathlib import Path

from asr.cli import run_command
from asr.config.reader import load_config
from asr.errors import EXIT_OK
from asr.published.kinds import check_recognises


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr export",
        description="Write a folder with the settings, tokens, normalisation, weights (safetensors) and program "
        "(StableHLO) of a trained model.",
        epilog="Exit codes: 0 written, 2 wrong input.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory of a training")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the model folder, a new one")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="default: best")
    parser.add_argument(
        "--average", type=int, default=1, metavar="N", help="use the mean of N checkpoints (default: 1)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing exported model")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example inference.max_segment_s=30")
    return parser.parse_intermixed_args()


def main() -> int:
    """Export the model; return the exit code."""
    arguments = parse_arguments()
    check_recognises(arguments.run)
    load_config(arguments.run / "config.yaml", arguments.overrides)  # reports a mistake before jax is imported

    from asr.inference.loading import load_parts
    from asr.inference.model_folder import check_target, save_model_folder

    check_target(arguments.out, arguments.force)
    parts = load_parts(arguments.run, arguments.checkpoint, arguments.overrides, arguments.average)
    save_model_folder(arguments.out, *parts, force=arguments.force)
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(f"{arguments.out}: {size / 1e6:.1f} MB; README.txt says how to run it")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
