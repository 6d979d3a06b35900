"""What a split consists of, in so few bytes that a run can keep it: to notice later that the data have changed.

Of every utterance the fingerprint has its name, its place in the order, its text as a hash, its length and the size of
its sound file. Of every sound file in a split of at most 10,000, and of about so many of a larger one, chosen by their
names, it has a hash of the contents, too: of small files all bytes, of large ones the beginning, the middle and the
end. 200,000 utterances take about 10 s on a warm disk and 15 MB in the record.
"""

import binascii
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from asr.data.dataset import SpeechDataset
from asr.files import open_file

MAX_CONTENTS = 10_000
"""About so many sound files of a split have their contents read."""

BLOCK_BYTES = 1 << 14
"""Read at the beginning, in the middle and at the end of a file; a file of up to three blocks is read whole."""

NUM_THREADS, CHUNK = 8, 256
MAX_NAMED = 3
"""Utterances that a message names."""

PARTS = ("sound", "text")


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What a split consisted of.

    Attributes:
        samples: (name, print of the sound, print of the text), in the order of the data set; empty if generated.
        one_in: the contents of one sound file in so many were read.
        generated: the settings that made generated data.
    """

    samples: tuple[tuple[str, str, str], ...] = ()
    one_in: int = 1
    generated: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON values: a line for each utterance."""
        lines = ["\t".join(sample) for sample in self.samples]
        return {"one_in": self.one_in, "generated": self.generated, "samples": lines}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "Fingerprint":
        """Return what `to_json` gave; a KeyError, TypeError or ValueError says that it did not."""
        samples = tuple(tuple(line.rsplit("\t", len(PARTS))) for line in value["samples"])
        if not all(len(sample) == 1 + len(PARTS) for sample in samples) or int(value["one_in"]) < 1:
            raise ValueError("utterances without prints")
        return cls(samples, int(value["one_in"]), dict(value["generated"]))


def take_fingerprint(dataset: SpeechDataset, one_in: int | None = None) -> Fingerprint:
    """Return the fingerprint of a split; nothing is decoded.

    Args:
        dataset: the split.
        one_in: as in the fingerprint that this one is to be compared with; by default as the number of samples asks.
    """
    if settings := dataset.generated_from():
        return Fingerprint(generated=settings)
    files = dataset.sound_files() or [""] * len(dataset)
    different = list(dict.fromkeys(files))
    one_in = one_in or -(-len(different) // MAX_CONTENTS)
    sounds = dict(zip(different, _prints_of(different, one_in), strict=True))
    texts = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in dataset.texts())
    lengths = (f"{1000 * seconds:.0f} ms" for seconds in dataset.durations_s())
    rows = zip(dataset.names(), lengths, files, texts, strict=True)
    return Fingerprint(tuple((name, f"{length}:{sounds[file]}", text) for name, length, file, text in rows), one_in)


def describe_differences(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Return in words what was added, removed, changed and reordered, with the first names; nothing if nothing was."""
    if before.generated or after.generated:
        return _generated_differences(before.generated, after.generated)
    old, new = _by_name(before), _by_name(after)
    common = [name for name in old if name in new]
    lines = [_line("added", [n for n in new if n not in old]), _line("removed", [n for n in old if n not in new])]
    for number, part in enumerate(PARTS):
        lines.append(_line(f"with another {part}", [n for n in common if old[n][number] != new[n][number]]))
    moved = [a for a, b in zip(common, (n for n in new if n in old), strict=True) if a != b]
    lines.append(_line("in another place of the order", moved))
    return [line for line in lines if line]


def _prints_of(files: list[str], one_in: int) -> list[str]:
    """Return the print of each file; which have their contents read depends on their names, not on their folders."""

    def take(start: int) -> list[str]:
        chunk = files[start : start + CHUNK]
        return [print_of(file, binascii.crc32(os.path.basename(file).encode()) % one_in == 0) for file in chunk]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return [word for chunk in pool.map(take, range(0, len(files), CHUNK)) for word in chunk]


def print_of(file: str | Path, with_contents: bool) -> str:
    """Return size and hash of a file in a word; of a file that cannot be read the word says that."""
    try:
        size = os.stat(file).st_size
        return f"{size}:{_hash_of_blocks(Path(file), size)}" if with_contents else f"{size}"
    except (OSError, ValueError):  # whoever reads the sound says what is wrong with it
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
    """Return (name, how often it came before) → prints, in order; a name may come several times."""
    return dict(_numbered(fingerprint))


def _numbered(fingerprint: Fingerprint) -> Iterator[tuple[tuple[str, int], tuple[str, ...]]]:
    seen = Counter()
    for name, *prints in fingerprint.samples:
        yield (name, seen[name]), tuple(prints)
        seen[name] += 1


def _generated_differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    return [f"generated with {key} {after.get(key)} instead of {before.get(key)}" for key in keys]


def _line(what: str, names: list[tuple[str, int]]) -> str:
    if not names:
        return ""
    first = ", ".join(name for name, _ in names[:MAX_NAMED])
    more = ", …" if len(names) > MAX_NAMED else ""
    return f"{len(names):,} {'utterance' if len(names) == 1 else 'utterances'} {what} ({first}{more})"
