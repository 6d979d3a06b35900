"""The contents of a split in few enough bytes to keep with a run, to notice later that the data have changed.

A fingerprint has the name, position and two file sizes of every sample. For about 10,000 samples, chosen by name, it
also has a hash of the contents: all bytes of small files; start, middle and end of large ones. (A PNG ends with the
checksum of its pixels.) 200,000 samples take about 10 s on a warm disk and 15 MB in the record.
"""

import binascii
import dataclasses
import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from seg.data.dataset import SegmentationDataset, read_checked
from seg.files import open_file

MAX_CONTENTS = 10_000  # approximate number of samples whose contents are read

BLOCK_BYTES = 1 << 14
"""Bytes read at the start, middle and end of a file; a file of up to three blocks is read whole."""

NUM_THREADS, CHUNK = 8, 256
MAX_NAMED = 3  # samples named in a message

PARTS = ("image", "mask")


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The contents of a split."""

    # (name, print of the image, print of the mask), in the order of the data set; empty if generated
    samples: tuple[tuple[str, str, str], ...] = ()
    one_in: int = 1  # one in this many samples had its contents read
    generated: dict[str, Any] = dataclasses.field(default_factory=dict)  # settings of generated data

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with a line for each sample."""
        lines = ["\t".join(sample) for sample in self.samples]
        return {"one_in": self.one_in, "generated": self.generated, "samples": lines}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "Fingerprint":
        """Return the inverse of `to_json`; a KeyError, TypeError or ValueError means other JSON."""
        samples = tuple(tuple(line.rsplit("\t", len(PARTS))) for line in value["samples"])
        if not all(len(sample) == 1 + len(PARTS) for sample in samples) or int(value["one_in"]) < 1:
            raise ValueError("samples without prints")
        return cls(samples, int(value["one_in"]), dict(value["generated"]))


def take_fingerprint(dataset: SegmentationDataset, one_in: int | None = None) -> Fingerprint:
    """Return the fingerprint of a split, without decoding files; `one_in` as of the fingerprint to compare with."""
    if settings := dataset.generated_from():
        return Fingerprint(generated=settings)
    one_in = one_in or -(-len(dataset) // MAX_CONTENTS)
    starts = range(0, len(dataset), CHUNK)

    def take(start: int) -> list[tuple[str, str, str]]:
        return [_take_one(dataset, i, one_in) for i in range(start, min(start + CHUNK, len(dataset)))]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return Fingerprint(tuple(sample for chunk in pool.map(take, starts) for sample in chunk), one_in)


def describe_differences(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Return a line for what was added, removed, changed and reordered, with the first names."""
    if before.generated or after.generated:
        was, is_now = before.generated, after.generated
        keys = [key for key in was | is_now if was.get(key) != is_now.get(key)]
        return [f"generated with {key} {is_now.get(key)} instead of {was.get(key)}" for key in keys]
    old, new = _by_name(before), _by_name(after)
    common = [name for name in old if name in new]
    names = {"added": [n for n in new if n not in old], "removed": [n for n in old if n not in new]}
    for number, part in enumerate(PARTS):
        names[f"with another {part}"] = [n for n in common if old[n][number] != new[n][number]]
    reordered = [n for n in new if n in old]
    names["at another position"] = [a for a, b in zip(common, reordered, strict=True) if a != b]
    return [_line(difference, keys) for difference, keys in names.items() if keys]


def _take_one(dataset: SegmentationDataset, index: int, one_in: int) -> tuple[str, str, str]:
    name = dataset.name(index)
    with_contents = binascii.crc32(name.encode("utf-8", "surrogateescape")) % one_in == 0
    try:
        image, *masks = (print_of(file, with_contents) for file in dataset.files(index))
        return name, image, "+".join(masks)
    except NotImplementedError:  # a data set from outside the package, whose samples need not be files
        if not with_contents:
            return name, *("unread" for _ in PARTS)
        sample = read_checked(dataset, index)
        return name, *(f"{array.nbytes}:{_hash(array.tobytes())}" for array in (sample.image, sample.mask))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def print_of(file: Path, with_contents: bool) -> str:
    """Return size and hash of a file as one word, or "unreadable"."""
    try:
        size = os.stat(file).st_size
        return f"{size}:{_hash_of_blocks(file, size)}" if with_contents else f"{size}"
    except (OSError, ValueError):  # reading the sample will raise the error
        return "unreadable"


def _hash_of_blocks(file: Path, size: int) -> str:
    hashed = hashlib.sha256()
    with open_file(file) as stream:
        if size <= 3 * BLOCK_BYTES:
            hashed.update(stream.read(3 * BLOCK_BYTES))
        else:
            for start in (0, (size - BLOCK_BYTES) // 2, size - BLOCK_BYTES):
                stream.seek(start)
                hashed.update(stream.read(BLOCK_BYTES))
    return hashed.hexdigest()[:16]


def _by_name(fingerprint: Fingerprint) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return (name, number of earlier samples of that name) → prints, in order; names may repeat."""
    counts, by_name = Counter(), {}
    for name, *prints in fingerprint.samples:
        by_name[name, counts[name]] = tuple(prints)
        counts[name] += 1
    return by_name


def _line(difference: str, names: list[tuple[str, int]]) -> str:
    first = ", ".join(name for name, _ in names[:MAX_NAMED])
    more = ", …" if len(names) > MAX_NAMED else ""
    return f"{len(names):,} sample{'s' * (len(names) != 1)} {difference} ({first}{more})"
