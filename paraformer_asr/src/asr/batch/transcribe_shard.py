"""Transcribes one shard into its part; a file that cannot be read gets a line with the reason."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from asr.batch.shards import Shard
from asr.data.sounds.audio import iterate_audio
from asr.files import read_bounded, sync_directory, writing_aside
from asr.inference.transcription import Outcome, Source, read_segments, transcribe_segments

if TYPE_CHECKING:
    from asr.inference.hotwords import Hotword
    from asr.inference.transcriber import Transcriber

MAX_PART_BYTES = 1 << 32


@dataclasses.dataclass
class Counts:
    """What became of the files of one or more parts.

    Attributes:
        files: lines, errors included.
        errors: files that could not be read.
        empty: files without a word.
        incomplete: files with segments on which the device failed.
        sound_s: seconds of sound in the files that were read.
    """

    files: int = 0
    errors: int = 0
    empty: int = 0
    incomplete: int = 0
    sound_s: float = 0.0

    def add_row(self, row: dict[str, Any]) -> None:
        """Count a line."""
        self.files += 1
        self.errors += row["error"] is not None
        self.empty += row["error"] is None and not row["text"]
        self.incomplete += bool(row.get("failures"))
        self.sound_s += row.get("duration_s") or 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


def transcribe_shard(
    transcriber: "Transcriber",
    shard: Shard,
    note: Callable[[dict], object] = bool,
    hotwords: tuple["Hotword", ...] = (),
) -> Counts:
    """Write the part of a shard, which appears when it is complete, and count its lines.

    Args:
        transcriber: the model.
        shard: what to read.
        note: called with each line.
        hotwords: to prefer in all of them.

    Raises:
        UserError: the part cannot be written.
    """
    counts = Counts()
    with (
        writing_aside(shard.part, parents=True) as aside,
        aside.open("w", encoding="utf-8", errors="backslashreplace") as file,  # a path may hold bytes that are no UTF-8
    ):
        for row in _rows(transcriber, shard, hotwords):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts.add_row(row)
            note(row)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(shard.part.parent)
    return counts


def count_part(shard: Shard) -> Counts | None:
    """Return the counts of a part that has a line for each file; None if it is missing or damaged."""
    counts = Counts()
    try:
        rows = [json.loads(line) for line in read_bounded(shard.part, MAX_PART_BYTES).splitlines()]
        for row in rows:
            counts.add_row(row)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return counts if counts.files == len(shard.jobs) else None


def _rows(transcriber: "Transcriber", shard: Shard, hotwords: tuple["Hotword", ...]) -> Iterator[dict[str, Any]]:
    """Yield the line of each file, in order."""
    config = transcriber.config
    options = {"channel": config.data.channel}
    sources = (
        Source(
            functools.partial(iterate_audio, job.source, config.features.sample_rate_hz, span=job.span, **options),
            str(job.source),
            job.name,
            job,
        )
        for job in shard.jobs
    )
    for outcome in transcribe_segments(transcriber, read_segments(transcriber, sources), hotwords):
        yield _row(outcome)


def _row(outcome: Outcome) -> dict[str, Any]:
    job = outcome.source.tag
    start = {"name": job.name, "file": str(job.source)}
    if outcome.error:
        return {**start, "error": outcome.error, "text": None}
    remark = {"remark": outcome.why_empty} if outcome.why_empty else {}
    return {**start, "error": None, **remark, **outcome.transcript.to_plain(), "file": str(job.source)}
