"""The lines of a manifest in columns: a line costs its texts and a few numbers, not objects of its own."""

import dataclasses
import math
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Entry:
    """One utterance of a manifest.

    Attributes:
        name: unique in its split.
        path: sound file.
        text: what is said, not empty.
        where: file and line, for messages.
        stated_s: length in seconds by the manifest; None where it is not stated.
    """

    name: str
    path: Path
    text: str
    where: str
    stated_s: float | None = None


class Texts(Sequence[str]):
    """Texts as one row of UTF-8 bytes."""

    def __init__(self):
        self._content, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        """Add a text that can be written in UTF-8."""
        self._content += text.encode()
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._content[self._ends[index] : self._ends[index + 1]].decode()


class Entries(Sequence[Entry]):
    """The entries of a manifest, or some of them; an `Entry` is made on access.

    Attributes:
        paths: the different sound files, each once.
    """

    def __init__(self, manifest: str = ""):
        """Start without an entry; `manifest` is the file whose lines they are."""
        self._manifest, self._names, self._texts, self.paths = manifest, Texts(), Texts(), Texts()
        self._path_numbers, self._lines, self._stated_s = array("i"), array("i"), array("d")
        self._rows: np.ndarray | None = None

    def append(self, name: str, path_number: int, text: str, line: int, stated_s: float | None) -> None:
        """Add an entry; `path_number` is the place of its sound file in `paths`."""
        self._names.append(name)
        self._texts.append(text)
        self._path_numbers.append(path_number)
        self._lines.append(line)
        self._stated_s.append(math.nan if stated_s is None else stated_s)

    def select(self, rows: np.ndarray) -> "Entries":
        """Return the entries at the places int[kept]; they share the columns with these."""
        selected = Entries.__new__(Entries)
        selected.__dict__ = self.__dict__ | {"_rows": self._all_rows()[rows]}
        return selected

    def path_numbers(self) -> np.ndarray:
        """Return int32[len], the place of each entry's sound file in `paths`."""
        return np.array(self._path_numbers)[self._all_rows()]

    def stated_s(self) -> np.ndarray:
        """Return float64[len], the length of each entry by the manifest; NaN where it is not stated."""
        return np.array(self._stated_s)[self._all_rows()]

    def names(self) -> list[str]:
        """Return the name of each entry."""
        return [self._names[row] for row in self._all_rows()]

    def texts(self) -> list[str]:
        """Return the text of each entry."""
        return [self._texts[row] for row in self._all_rows()]

    def where(self, index: int) -> str:
        """Return file and line of entry `index`."""
        return f"{self._manifest}:{self._lines[self._row(index)]}"

    def __len__(self) -> int:
        return len(self._lines) if self._rows is None else len(self._rows)

    def __getitem__(self, index: int) -> Entry:
        row = self._row(index)
        stated_s = None if math.isnan(self._stated_s[row]) else self._stated_s[row]
        path = Path(self.paths[self._path_numbers[row]])
        return Entry(self._names[row], path, self._texts[row], self.where(index), stated_s)

    def _row(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"the manifest has {len(self)} entries, asked for index {index}")
        return index if self._rows is None else int(self._rows[index])

    def _all_rows(self) -> np.ndarray:
        return np.arange(len(self._lines)) if self._rows is None else self._rows
