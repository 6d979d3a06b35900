"""What a case is, and what every kind of input has to know."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.byte_changes import change_bytes

from seg.errors import UserError


@dataclasses.dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        files: path below the folder of the case → content.
        arguments: of a command line.
    """

    files: dict[str, bytes]
    arguments: tuple[str, ...] = ()

    def replace(self, name: str, content: bytes | None) -> "Case":
        """Return the case with one file replaced, or removed."""
        files = {key: value for key, value in self.files.items() if key != name}
        return Case(files if content is None else files | {name: content}, self.arguments)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: in the table.
        make: folder → sound samples; the folder is its own, for what must be written to be read.
        change: (random numbers, samples) → a case.
        read: (folder of the case, case) → gives the case to the package, and asserts what is true of the answer.
        documented: the errors by which the reader may refuse.
        names: (folder, case) → texts of which a refusal must have one.
    """

    name: str
    make: Callable[[Path], list[Case]]
    change: Callable[[Random, list[Case]], Case]
    read: Callable[[Path, Case], Any]
    documented: tuple[type[Exception], ...] = (UserError,)
    names: Callable[[Path, Case], list[str]] = lambda folder, case: [str(folder)]


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by their paths below it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def change_file(rng: Random, samples: list[Case], changes: dict[str, Callable[[Random, bytes], bytes]]) -> Case:
    """Return a sample with a file changed as one of its kind, or in its bytes, removed, or replaced by another.

    Args:
        rng: of the case.
        samples: to choose from.
        changes: end of a file's name → how such a file is changed in its structure.
    """
    case = rng.choice(samples)
    name = rng.choice(sorted(case.files))
    content = case.files[name]
    structural = [change for end, change in changes.items() if name.endswith(end)]
    match rng.randrange(12):
        case 0:
            return case.replace(name, None)
        case 1:
            return case.replace(name, rng.choice(list(rng.choice(samples).files.values())))
        case n if n < 7 and structural:
            return case.replace(name, structural[0](rng, content))
    return case.replace(name, change_bytes(rng, content, list(case.files.values())))
