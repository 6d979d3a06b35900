"""Arguments that several commands share."""

import argparse
from pathlib import Path

from seg.config.schema import SCALE_MEANING

SCALES = "{trained,native,FACTOR}"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--run`, `--model` and `--checkpoint`."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, help="run directory")
    model.add_argument("--model", type=Path, metavar="FOLDER", help="exported or converted model")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="of the run (default: best)")


def add_prediction(parser: argparse.ArgumentParser) -> None:
    """Add `--mirror` and `--scale`."""
    mirror = "average with the mirrored image, at half the speed (default: as in the config)"
    parser.add_argument("--mirror", "--tta", action=argparse.BooleanOptionalAction, help=mirror)
    parser.add_argument("--scale", metavar=SCALES, help=f"{SCALE_MEANING} (default: as in the config)")


def prediction_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the settings that `--mirror` and `--scale` change, as `key=value`."""
    overrides = [] if arguments.mirror is None else [f"inference.mirror={str(arguments.mirror).lower()}"]
    return [*overrides, f"inference.scale={arguments.scale}"] if arguments.scale else overrides
