"""Gives one damaged input to its reader and judges what comes of it."""

import contextlib
import faulthandler
import random
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from asr.errors import UserError
from asr.profiling.process_memory import forget_peak, peak_bytes, resident_bytes

LIMIT_S = 10.0
"""Longest time of a case. The slowest honest input takes a few hundred milliseconds."""

LIMIT_MB = 400.0
"""Most memory that a case may add to that of the process while it runs."""

MAX_MESSAGE = 5000
"""Characters: a message is read by a person."""

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a message must not hand on from an untrusted file to the terminal."""


class Kind(NamedTuple):
    """One kind of input.

    Attributes:
        name: in the table and on the command line.
        share: of all cases, as a weight.
        samples: makes valid samples, in an empty folder.
        write: writes a changed one into an empty folder; returns texts of which the message must hold one.
        read: the reader under test; called with the folder.
        refusals: the errors that are documented.
    """

    name: str
    share: int
    samples: Callable[[Path], Any]
    write: Callable[[random.Random, Any, Path], list[str]]
    read: Callable[[Path], object]
    refusals: tuple[type[Exception], ...] = (UserError,)


class Trial(NamedTuple):
    """What came of a case.

    Attributes:
        outcome: "accepted", "refused" or "failed".
        message: of the refusal; for a failure what is wrong, with the traceback.
        seconds: that the reader took.
        grown_mb: memory that it took at most, beyond what the process had.
    """

    outcome: str
    message: str
    seconds: float
    grown_mb: float


class OutOfTimeError(BaseException):
    """A case takes too long. Not an `Exception`, so that no reader catches it."""


def run_trial(kind: Kind, folder: Path, names: list[str]) -> Trial:
    """Return what the reader of `kind` makes of the input in `folder`, which it must name by one of `names`."""
    forget_peak()
    start, before_bytes = time.perf_counter(), resident_bytes()
    try:
        with _strict(), _time_limit():
            kind.read(folder)
        outcome, message = "accepted", ""
    except kind.refusals as error:
        outcome, message = _judge_refusal(str(error), names)
    except (Exception, OutOfTimeError):
        outcome, message = "failed", traceback.format_exc()
    seconds, grown_mb = time.perf_counter() - start, max(peak_bytes() - before_bytes, 0) / 1e6
    if outcome != "failed" and seconds > LIMIT_S:  # the alarm may be lost in a callback that ignores errors
        outcome, message = "failed", f"took {seconds:.1f} s, more than {LIMIT_S:g} ({message})"
    if outcome != "failed" and grown_mb > LIMIT_MB:
        outcome, message = "failed", f"took {grown_mb:.0f} MB, more than {LIMIT_MB:.0f} ({message})"
    return Trial(outcome, message, seconds, grown_mb)


def _judge_refusal(message: str, names: list[str]) -> tuple[str, str]:
    if not any(name in message for name in names):
        return "failed", f"the message names none of {names}: {message[:1000]}"
    if len(message) > MAX_MESSAGE:
        return "failed", f"a message of {len(message)} characters: {message[:500]}"
    if match := CONTROL.search(message):
        return "failed", f"the message hands on the character {match[0]!r}: {message[:1000]!r}"
    return "refused", message


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """Make every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Raise `OutOfTimeError` after `LIMIT_S`; end the process with its stack if that does not help."""

    def stop(*_: object) -> None:
        raise OutOfTimeError(f"no answer in {LIMIT_S:g} s")

    previous = signal.signal(signal.SIGALRM, stop)
    faulthandler.dump_traceback_later(6 * LIMIT_S, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)


def limit_address_space(more_bytes: int) -> None:
    """Limit the growth of the process, in bytes of address space, so that a bomb ends in a MemoryError."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
