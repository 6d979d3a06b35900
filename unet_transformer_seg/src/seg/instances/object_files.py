"""Writes the objects of an image: their numbers as a TIFF, and a table with a row for each."""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from seg.files import writing_aside
from seg.instances.objects import COLUMNS, Objects


def save_numbers(path: Path, objects: Objects) -> None:
    """Write the numbers as a TIFF: of 16 bits, or of 32 where there are more than 65,535 objects."""
    dtype = np.uint16 if len(objects) < 1 << 16 else np.int32
    with writing_aside(path, parents=True) as aside:
        Image.fromarray(objects.numbers.astype(dtype)).save(aside, format="TIFF", compression="tiff_deflate")


def save_table(path: Path, objects: Objects) -> None:
    """Write the rows of `Objects.table` as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(objects.table())
    with writing_aside(path, parents=True) as aside, aside.open("w", encoding="utf-8") as file:
        file.write(text.getvalue())
