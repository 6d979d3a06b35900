"""Stores the lines of a manifest in columns, so that a line costs its texts and a few numbers, not Python objects."""

import dataclasses
import math
from array import array
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Entry:
    """One utterance of a manifest."""

    name: str  # unique in its split
    path: Path  # sound file
    text: str  # what is said, not empty
    where: str  # file and line, for messages
    stated_s: float | None = None  # length in seconds by the manifest; None where it is not stated
    start_s: float | None = None  # where it begins in the file; None: it is the whole file


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
    """The entries of a manifest; an `Entry` is made on access.

    Attributes:
        names: of the utterances.
        texts: what is said in them.
        paths: the different sound files, each once.
        path_numbers: place of each entry's sound file in `paths`.
        stated_s: length of each entry by the manifest, in seconds; NaN where it is not stated.
        starts_s: where each entry begins in its file, in seconds; NaN where it is the whole file.
    """

    def __init__(self, manifest: str):
        """Start without an entry; `manifest` is the file whose lines they are."""
        self._manifest, self._lines = manifest, array("i")
        self.names, self.texts, self.paths = Texts(), Texts(), Texts()
        self.path_numbers, self.stated_s, self.starts_s = array("i"), array("d"), array("d")

    def append(
        self, name: str, path_number: int, text: str, line: int, stated_s: float | None, start_s: float | None = None
    ) -> None:
        """Add an entry; `path_number` is the place of its sound file in `paths`."""
        self.names.append(name)
        self.texts.append(text)
        self.path_numbers.append(path_number)
        self._lines.append(line)
        self.stated_s.append(math.nan if stated_s is None else stated_s)
        self.starts_s.append(math.nan if start_s is None else start_s)

    def where(self, index: int) -> str:
        """Return file and line of entry `index`."""
        return f"{self._manifest}:{self._lines[self._checked(index)]}"

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Entry:
        numbers = self.stated_s[self._checked(index)], self.starts_s[index]
        path = Path(self.paths[self.path_numbers[index]])
        known = (None if math.isnan(number) else number for number in numbers)
        return Entry(self.names[index], path, self.texts[index], self.where(index), *known)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"the manifest has {len(self)} entries, asked for index {index}")
        return index
