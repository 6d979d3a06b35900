"""Gives one damaged input to its reader, and judges the outcome."""

import contextlib
import dataclasses
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.mutations import change_bytes

from seg.errors import UserError
from seg.profiling.process_memory import forget_peak, peak_bytes, resident_bytes

TIME_LIMIT_S = 10
MEMORY_LIMIT_MB = 192
ADDRESS_SPACE_BYTES = 6 << 30
"""Above what the process has at its start: an allocation that claims more than that fails at once."""
MAX_MESSAGE = 10_000


class NoAnswer(BaseException):
    """A reader took too long; no reader may swallow this."""


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


def run_trial(kind: Kind, case: Case, place: Path) -> tuple[str, str, float, float]:
    """Lay out a case in the folder `place` and have it read.

    Returns:
        failure: what was wrong, or an empty text.
        refused: the message of a refusal, or an empty text.
        seconds: that the reader took.
        growth_mb: memory that it took at its peak.
    """
    lay_out(case, place)
    failure = refused = ""
    forget_peak()
    before_bytes, start = resident_bytes(), time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", append=True)  # what the package itself filters stays filtered
        try:
            with time_limit(TIME_LIMIT_S):
                kind.read(place, case)
        except kind.documented as error:
            refused = str(error)
            failure = fault_of_message(refused, kind.names(place, case))
        except (Exception, NoAnswer):
            failure = traceback.format_exc()
    seconds, growth_mb = time.perf_counter() - start, (peak_bytes() - before_bytes) / 1e6
    if warned and not failure:
        failure = f"warned: {warned[0].category.__name__}: {warned[0].message}"
    if growth_mb > MEMORY_LIMIT_MB and not failure:
        failure = f"took {growth_mb:.0f} MB of memory"
    return failure, refused, seconds, growth_mb


def fault_of_message(message: str, names: list[str]) -> str:
    """Return what is wrong with the message of a refusal, or an empty text."""
    if not any(name in message for name in names):
        return f"the message names none of {', '.join(names)}: {message[:500]}"
    return f"a message of {len(message)} characters: {message[:500]}" if len(message) > MAX_MESSAGE else ""


def lay_out(case: Case, place: Path) -> None:
    """Write the files of a case, and nothing else, into the folder `place`."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, content in case.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise `NoAnswer` in the body after so many seconds."""

    def give_up(*_):
        raise NoAnswer(f"no answer within {seconds} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def limit_address_space() -> None:
    """Let an allocation of gigabytes fail, where the system reports how much is in use."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ADDRESS_SPACE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
