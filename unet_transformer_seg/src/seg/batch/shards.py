"""The shards of a batch: which files belong together, and where their results are written.

    part_00012_5f0c2ae1b5d04e77.jsonl

The name holds the number of the shard and a digest of everything its results depend on: the files (path, size, time of
the last change), the model and its settings. A part appears when it is complete, so a part that exists is never made
again, and one that would come out differently has another name.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seg.errors import UserError

if TYPE_CHECKING:
    from seg.inference.output import Job

DIGEST_CHARACTERS = 16
PART = re.compile(rf"part_\d+_[0-9a-f]{{{DIGEST_CHARACTERS}}}\.jsonl")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Consecutive files of the input.

    Attributes:
        number: from 0.
        jobs: its files.
        part: file of the results, one line of JSON for each file.
    """

    number: int
    jobs: "tuple[Job, ...]"
    part: Path


def plan_shards(jobs: "Sequence[Job]", out: Path, made_by: str, size: int) -> list[Shard]:
    """Return the shards of the whole input.

    Args:
        jobs: all files, in order.
        out: folder of the parts.
        made_by: digest of the model and its settings.
        size: files in a shard; the last one may have fewer.
    """
    shards = []
    for number, start in enumerate(range(0, len(jobs), size)):
        files = tuple(jobs[start : start + size])
        content = json.dumps([made_by, [_describe(job, out) for job in files]])
        digest = hashlib.sha256(content.encode()).hexdigest()[:DIGEST_CHARACTERS]
        shards.append(Shard(number, files, out / f"part_{number:05d}_{digest}.jsonl"))
    return shards


def parse_share(text: str) -> tuple[int, int]:
    """Return (i, n) of `i/n`.

    Raises:
        UserError: not such a text, or no i of 0, …, n − 1.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    share = (int(match[1]), int(match[2])) if match else (0, 0)
    if share[0] >= share[1]:
        raise UserError(f"--shard: expected i/n with i from 0 to n − 1, such as 0/8 to 7/8, found {text!r:.80}")
    return share


def find_stale(out: Path, shards: Iterable[Shard]) -> list[Path]:
    """Return the parts in a folder that belong to none of the shards: a different input, model or setting made them."""
    planned = {shard.part.name for shard in shards}
    return sorted(path for path in out.glob("part_*.jsonl") if PART.fullmatch(path.name) and path.name not in planned)


def _describe(job: "Job", out: Path) -> list:
    """Return what the result of a file depends on, apart from the model."""
    try:
        status = job.source.stat()
        version = [status.st_size, status.st_mtime_ns]
    except OSError:  # reported when it is read
        version = []
    path = str(job.source.absolute()).encode("utf-8", "backslashreplace").decode()
    return [path, str(job.stem.relative_to(out)), version]
