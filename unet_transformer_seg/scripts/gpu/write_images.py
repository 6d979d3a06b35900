"""Writes a folder of images and masks to feed a benchmark from: JPEG files of noise as smooth as a photo's, PNG masks.

python scripts/gpu/write_images.py FOLDER --number 256 --side 512 --json DONE.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

NUM_CLASSES = 11
CELL = 32
"""Pixels between the drawn values; between them the noise is smooth."""


def write_pair(split: Path, number: int, side: int) -> None:
    """Write image and mask of one number."""
    rng, cells = np.random.default_rng(number), -(-side // CELL)
    colours = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
    labels = Image.fromarray(rng.integers(0, NUM_CLASSES, (cells, cells), np.uint8))
    colours.resize((side, side), Image.Resampling.BICUBIC).save(split / "images" / f"{number:05}.jpg", quality=90)
    labels.resize((side, side), Image.Resampling.NEAREST).save(split / "labels" / f"{number:05}.png")


def main() -> None:
    """Write the splits, the classes, and when all is there the mark."""
    parser = argparse.ArgumentParser(description="Write images and masks to feed a benchmark from.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=256, help="training images (default: 256)")
    parser.add_argument("--side", type=int, default=512, help="pixels (default: 512)")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="written last")
    arguments = parser.parse_args()
    for split, numbers in (("train", range(arguments.number)), ("val", range(2))):
        for part in ("images", "labels"):
            (arguments.folder / split / part).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            write_pair(arguments.folder / split, number, arguments.side)
    names = [f"class {i}" for i in range(NUM_CLASSES)]
    palette = [[20 * i] * 3 for i in range(NUM_CLASSES)]
    (arguments.folder / "classes.json").write_text(json.dumps({"names": names, "palette": palette}) + "\n")
    arguments.json.write_text(json.dumps({"images": arguments.number, "side": arguments.side}) + "\n")


if __name__ == "__main__":
    main()
