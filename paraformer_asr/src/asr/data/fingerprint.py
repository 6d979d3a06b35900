"""The contents of a split in few enough bytes to keep with a run, to notice later that the data have changed.

A fingerprint has the name, position, hash of the text, length and size of the sound file of every utterance. For about
10,000 sound files, chosen by name, it also has a hash of the contents: all bytes of small files; start, middle and end
of large ones. 200,000 utterances take about 10 s on a warm disk and 15 MB in the record.
"""

import binascii
import dataclasses
import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from asr.data.dataset import SpeechDataset
from asr.files import open_file

MAX_CONTENTS = 10_000  # approximate number of sound files whose contents are read
BLOCK_BYTES = 1 << 14
"""Bytes read at the start, middle and end of a file; a file of up to three blocks is read whole."""

NUM_THREADS, CHUNK = 8, 256
MAX_NAMED = 3  # utterances named in a message
PARTS = ("sound", "text")


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The contents of a split."""

    samples: tuple[tuple[str, str, str], ...] = ()  # (name, print of the sound, print of the text); empty if generated
    one_in: int = 1  # one in this many sound files had its contents read
    generated: dict[str, Any] = dataclasses.field(default_factory=dict)  # settings of generated data

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with a line for each utterance."""
        lines = ["\t".join(sample) for sample in self.samples]
        return {"one_in": self.one_in, "generated": self.generated, "samples": lines}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "Fingerprint":
        """Return the inverse of `to_json`; a KeyError, TypeError or ValueError means other JSON."""
        samples = tuple(tuple(line.rsplit("\t", len(PARTS))) for line in value["samples"])
        if not all(len(sample) == 1 + len(PARTS) for sample in samples) or int(value["one_in"]) < 1:
            raise ValueError("utterances without prints")
        return cls(samples, int(value["one_in"]), dict(value["generated"]))


def take_fingerprint(dataset: SpeechDataset, one_in: int | None = None) -> Fingerprint:
    """Return the fingerprint of a split, without decoding sound; `one_in` as of the fingerprint to compare with."""
    if settings := dataset.generated_from():
        return Fingerprint(generated=settings)
    files = dataset.sound_files() or [""] * len(dataset)
    different = list(dict.fromkeys(files))
    one_in = one_in or -(-len(different) // MAX_CONTENTS)
    sounds = dict(zip(different, _prints_of(different, one_in), strict=True))
    texts = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in dataset.texts())
    starts = (f"{1000 * seconds:.0f}+" if seconds else "" for seconds in dataset.starts_s())
    lengths = (f"{start}{1000 * s:.0f} ms" for start, s in zip(starts, dataset.durations_s(), strict=True))
    rows = zip(dataset.names(), lengths, files, texts, strict=True)
    return Fingerprint(tuple((name, f"{length}:{sounds[file]}", text) for name, length, file, text in rows), one_in)


def describe_differences(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Return a line for what was added, removed, changed and reordered, with the first names."""
    if before.generated or after.generated:
        old, new = before.generated, after.generated
        keys = [key for key in old | new if old.get(key) != new.get(key)]
        return [f"generated with {key} {new.get(key)} instead of {old.get(key)}" for key in keys]
    old, new = _by_name(before), _by_name(after)
    common = [name for name in old if name in new]
    names = {"added": [n for n in new if n not in old], "removed": [n for n in old if n not in new]}
    for number, part in enumerate(PARTS):
        names[f"with another {part}"] = [n for n in common if old[n][number] != new[n][number]]
    reordered = [n for n in new if n in old]
    names["at another position"] = [a for a, b in zip(common, reordered, strict=True) if a != b]
    return [_line(difference, keys) for difference, keys in names.items() if keys]


def _prints_of(files: list[str], one_in: int) -> list[str]:
    """Return the print of each file; which have their contents read depends on their names, not on their folders."""

    def take(start: int) -> list[str]:
        chunk = files[start : start + CHUNK]
        return [print_of(file, binascii.crc32(os.path.basename(file).encode()) % one_in == 0) for file in chunk]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return [word for chunk in pool.map(take, range(0, len(files), CHUNK)) for word in chunk]


def print_of(file: str | Path, with_contents: bool) -> str:
    """Return size and hash of a file as one word, or "unreadable"."""
    try:
        size = os.stat(file).st_size
        return f"{size}:{_hash_of_blocks(Path(file), size)}" if with_contents else f"{size}"
    except (OSError, ValueError):  # reading the sound will raise the error
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
    return f"{len(names):,} utterance{'s' * (len(names) != 1)} {difference} ({first}{more})"
