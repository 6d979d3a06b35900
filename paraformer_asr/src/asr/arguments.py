"""Arguments that several commands share."""

import argparse
from pathlib import Path

from asr.errors import UserError


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--run`, `--model` and `--checkpoint`."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, help="run directory of a training")
    model.add_argument(
        "--model", type=Path, metavar="FOLDER", help="exported or converted model, or one of FunASR as it was published"
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="of the run (default: best)")


def add_hotwords(parser: argparse.ArgumentParser) -> None:
    """Add `--hotwords`."""
    parser.add_argument(
        "--hotwords",
        default="",
        metavar="FILE_OR_LIST",
        help="names and terms to prefer: a text file with one on each line, or a list with commas; ' :2' behind one "
        "doubles its bonus",
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add `--dtype`."""
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "int8"),
        help="precision; auto: bfloat16 where faster, else float32; int8: on a CPU (default: that of the config)",
    )


def add_inputs(parser: argparse.ArgumentParser, number: str = "+") -> None:
    """Add the sounds to read, among which settings may stand; `number` as argparse's `nargs`."""
    parser.add_argument(
        "inputs",
        nargs=number,
        metavar="FILE",
        help="sound files, folders with sound files, lists (wav.scp, JSONL manifests), and settings as key=value",
    )


def add_vad(parser: argparse.ArgumentParser) -> None:
    """Add `--vad`."""
    parser.add_argument(
        "--vad",
        type=Path,
        metavar="FOLDER",
        help="voice activity detector that cuts long sound, one of FunASR or a run; its settings as vad.KEY=VALUE "
        "(default: cut at silences, by the level alone)",
    )


def part_vad_settings(settings: list[str], vad: Path | None) -> tuple[list[str], list[str]]:
    """Return the settings of the recogniser, and those of the detector without their prefix `vad.`."""
    of_vad = [text for text in settings if text.startswith("vad.")]
    if of_vad and not vad:
        raise UserError(f"{of_vad[0]}: a setting of the voice activity detector; name it by --vad FOLDER")
    return [text for text in settings if text not in of_vad], [text.removeprefix("vad.") for text in of_vad]


def add_punct(parser: argparse.ArgumentParser) -> None:
    """Add `--punct`."""
    parser.add_argument(
        "--punct",
        type=Path,
        metavar="FOLDER",
        help="punctuation model of FunASR: the text gets signs, capitals and sentences (default: as it was recognised)",
    )


def chosen_settings(arguments: argparse.Namespace) -> list[str]:
    """Return the settings that `--channel`, `--decoder` and `--dtype` stand for."""
    keys = {"channel": "data.channel", "decoder": "inference.decoder", "dtype": "inference.dtype"}
    values = {key: getattr(arguments, name, None) for name, key in keys.items()}
    return [f"{key}={value}" for key, value in values.items() if value not in (None, "each")]


def part_inputs(inputs: list[str]) -> tuple[list[Path], list[str]]:
    """Return the files and the settings; what has a '=' and is no file that exists is a setting."""
    settings = [text for text in inputs if "=" in text and not Path(text).exists()]
    return [Path(text) for text in inputs if text not in settings], settings


def count(number: int, noun: str) -> str:
    """Return the number with its noun, as in "1 file" and "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
