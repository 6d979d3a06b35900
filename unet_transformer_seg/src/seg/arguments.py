"""Arguments that several commands share."""

import argparse
from pathlib import Path

from seg.config.schema import SCALE_MEANING

SCALES = "{trained,native,FACTOR}"


def add_model(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add `--run`, `--model` and `--checkpoint`; `several` models predict together, see `part_models`."""
    model = parser.add_mutually_exclusive_group(required=True)
    more = {"nargs": "+"} if several else {}
    together = "; several predict together, by the mean of their probabilities" if several else ""
    model.add_argument("--run", type=Path, help=f"run directory{together}", **more)
    model.add_argument("--model", type=Path, metavar="FOLDER", help=f"exported or converted model{together}", **more)
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="of the run (default: best)")


def part_models(arguments: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Return the folders of `--run` or `--model`, and what follows them without being a model: images, settings."""
    first, *more = arguments.run or arguments.model
    is_model = [(path / "config.yaml").is_file() for path in more]
    number = is_model.index(False) if False in is_model else len(more)
    return [first, *more[:number]], list(map(str, more[number:]))


def add_prediction(parser: argparse.ArgumentParser) -> None:
    """Add `--mirror` and `--scale`."""
    mirror = "average with the mirrored image, at half the speed (default: as in the config)"
    parser.add_argument("--mirror", "--tta", action=argparse.BooleanOptionalAction, help=mirror)
    parser.add_argument("--scale", metavar=SCALES, help=f"{SCALE_MEANING} (default: as in the config)")


def add_instances(parser: argparse.ArgumentParser) -> None:
    """Add `--instances`."""
    parser.add_argument(
        "--instances",
        choices=("none", "components", "watershed"),
        help="count objects such as cells: connected components, or cut by the watershed where round ones touch "
        "(default: as in the config)",
    )


def prediction_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the settings that `--mirror`, `--scale` and `--instances` change, as `key=value`."""
    overrides = [] if arguments.mirror is None else [f"inference.mirror={str(arguments.mirror).lower()}"]
    overrides += [f"inference.scale={arguments.scale}"] if arguments.scale else []
    method = getattr(arguments, "instances", None)
    return [*overrides, f"instances.method={method}"] if method else overrides


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the images to read, among which settings may stand."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="IMAGE",
        help="files, folders with images, and settings as key=value, for example data.value_range=[0,4095]",
    )


def part_inputs(inputs: list[str]) -> tuple[list[Path], list[str]]:
    """Return the files and the settings: a text with a '=' is a setting unless a file has this name."""
    settings = [text for text in inputs if "=" in text and not Path(text).exists()]
    return [Path(text) for text in inputs if text not in settings], settings


def count(number: int, noun: str) -> str:
    """Return the number with its noun, as in "1 image" and "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
