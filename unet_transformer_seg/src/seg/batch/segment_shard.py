"""Segments one shard: masks first, then the part; an image that cannot be read gets a line with the reason."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg.batch.shards import Shard
from seg.data.images.remarks import Remarks
from seg.files import read_bounded, sync_directory, writing_aside
from seg.inference.output import Job
from seg.inference.segment_files import Options, segment_each

if TYPE_CHECKING:
    from seg.inference.predictor import Predictor

MAX_PART_BYTES = 1 << 32


@dataclasses.dataclass
class Counts:
    """What became of the images of one or more parts."""

    files: int = 0  # lines, errors included
    errors: int = 0  # images that could not be read, or whose mask could not be written
    megapixels: float = 0.0  # of the images that were segmented

    def add_row(self, row: dict[str, Any]) -> None:
        """Count a line."""
        self.files += 1
        self.errors += row["error"] is not None
        self.megapixels += sum((row["pixels"] or {}).values()) / 1e6

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


def segment_shard(
    predictor: "Predictor", shard: Shard, options: Options, note: Callable[[dict], object] = bool
) -> Counts:
    """Write the masks of a shard, then its part, and count its lines.

    Args:
        predictor: the model.
        shard: what to read.
        options: what is written beside the masks.
        note: called with each line, in the order in which the images are ready.

    Raises:
        UserError: the disk refuses every file.
    """
    rows: dict[Path, dict[str, Any]] = {}

    def add(job: Job, **values: Any) -> None:
        rows[job.source] = {"file": str(job.source), "mask": None, "pixels": None, "error": None, **values}
        note(rows[job.source])

    remark, names = Remarks(), predictor.classes.names
    for job, pixels_k, objects_k in segment_each(
        predictor, shard.jobs, options, lambda job, message: add(job, error=message), remark
    ):
        mask = str(job.mask.relative_to(shard.part.parent))
        counted = {"objects": dict(zip(names, objects_k.tolist(), strict=True))} if options.objects else {}
        add(job, mask=mask, pixels=dict(zip(names, pixels_k.tolist(), strict=True)), **counted)
    counts = Counts()
    with (
        writing_aside(shard.part, parents=True) as aside,
        aside.open("w", encoding="utf-8", errors="backslashreplace") as file,  # a path may hold bytes that are no UTF-8
    ):
        for job in shard.jobs:
            counts.add_row(rows[job.source])
            file.write(json.dumps(rows[job.source], ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    sync_directory(shard.part.parent)
    return counts


def count_part(shard: Shard) -> Counts | None:
    """Return the counts of a part with a line for each image and all its masks; None if it is missing or damaged."""
    counts = Counts()
    try:
        rows = [json.loads(line) for line in read_bounded(shard.part, MAX_PART_BYTES).splitlines()]
        for row in rows:
            counts.add_row(row)
        masks = [shard.part.parent / row["mask"] for row in rows if row["error"] is None]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return counts if counts.files == len(shard.jobs) and all(mask.is_file() for mask in masks) else None
