"""Open a published model, or publish one: `asr convert --from funasr DIR --out FOLDER`."""

import argparse
from pathlib import Path

from asr.cli import run_command
from asr.config.reader import override_config
from asr.errors import EXIT_OK
from asr.funasr_folder import WEIGHTS
from asr.published.funasr_config import make_funasr_config, read_funasr_config, read_settings
from asr.published.kinds import check_recognises, kind_of


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr convert",
        description="Convert a FunASR model (class Paraformer) into a model folder, or a model of this package into a "
        "folder that FunASR reads. Needs no torch, and runs no code from the file of weights.",
        epilog="Exit codes: 0 written, 2 wrong input.",
    )
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument("--from", dest="source", nargs=2, metavar=("funasr", "DIR"), help="published model")
    direction.add_argument("--to", dest="target", nargs=2, metavar=("funasr", "MODEL"), help="run, or model folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the folder to write, a new one")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="--to: of a run (default: best)")
    parser.add_argument("--force", action="store_true", help="replace an existing model folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example inference.max_segment_s=30")
    arguments = parser.parse_intermixed_args()
    kind = (arguments.source or arguments.target)[0]
    if kind != "funasr":
        parser.error(f"expected funasr, found {kind!r}")
    return arguments


def open_published(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the model folder of a FunASR model; one that does not recognise speech is used as it was published."""
    check_recognises(folder)
    override_config(read_funasr_config(folder), arguments.overrides)  # reports a mistake before jax is imported

    from asr.inference.loading import load_parts
    from asr.inference.model_folder import check_target, save_model_folder

    check_target(arguments.out, arguments.force)
    config, *parts = load_parts(folder, overrides=arguments.overrides)
    save_model_folder(arguments.out, config, *parts, force=arguments.force)


def publish(folder: Path, arguments: argparse.Namespace) -> None:
    """Write a folder of FunASR for a run or a model folder."""
    if kind_of(folder) == "vad":
        publish_detector(folder, arguments)
        return
    make_funasr_config(read_settings(folder, arguments.overrides))  # reports a mistake before jax is imported

    from asr.files import appearing
    from asr.inference.loading import load_parts
    from asr.inference.model_folder import check_target
    from asr.published.funasr import save_funasr

    check_target(arguments.out, arguments.force, lambda folder: (folder / WEIGHTS).is_file())
    parts = load_parts(folder, arguments.checkpoint, arguments.overrides)
    with appearing(arguments.out) as partial:
        save_funasr(partial, *parts)


def publish_detector(folder: Path, arguments: argparse.Namespace) -> None:
    """Write a folder of FunASR for a voice activity detector; the overrides change its rules."""
    from asr.inference.voice_activity import load_detector, save_detector

    detector = load_detector(folder, arguments.checkpoint, arguments.overrides)
    save_detector(detector, arguments.out, force=arguments.force)


def main() -> int:
    """Convert; return the exit code."""
    arguments = parse_arguments()
    if arguments.source:
        open_published(Path(arguments.source[1]), arguments)
    else:
        publish(Path(arguments.target[1]), arguments)
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(f"{arguments.out}: {size / 1e6:.1f} MB")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
