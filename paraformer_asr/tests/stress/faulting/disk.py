"""Disks that are full, fill up, or cannot be written to, on a small tmpfs; and two processes in one run directory."""

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from faulting.comparison import differences, last_state
from faulting.outcome import NotPossibleError, Outcome
from faulting.tiny_run import Start, finish_whole, run_of, saved_steps

SETTINGS = ("training.num_epochs=5",)
ONE_STEP = ("--max-minutes", "0.0001")
UNFINISHED_CODE, USER_ERROR_CODE = 75, 2
DISK_BYTES = 32 << 20
PAGE = 4096
MAX_TRIES = 5
BALLAST = "ballast"


def try_disk(folder: Path) -> Outcome:
    """Try each case on a disk of its own.

    Raises:
        NotPossibleError: no tmpfs can be mounted.
    """
    whole = finish_whole(folder / "whole", *SETTINGS)
    arrays, _ = last_state(whole)
    state_bytes = sum(array.nbytes for array in arrays.values())
    tries: dict[str, Callable[[Path], dict]] = {
        "too little free, foreseen": lambda disk: refused_before(disk, state_bytes),
        "fills up during a save": fills_up_during_save,
        "full before a resume": full_before_resume,
        "no byte for the log": no_byte_for_log,
        "no byte for the lock": no_byte_for_lock,
        "full during the steps": full_during_steps,
        "read-only before a resume": read_only,
        "full at the first start": full_at_start,
        "two processes": two_processes,
    }
    cases, failures = [], []
    for name, attempt in tries.items():
        place = folder / name.replace(" ", "_").replace(",", "")
        with small_disk(place / "runs"):
            case = {"case": name, **attempt(place)}
            failures += [f"{name}: {text}" for text in case.pop("faults")]
            differing = finish(place, whole)
            failures += [f"{name}: {text}" for text in differing]
            cases.append(case | {"bits_equal": not differing})
    heads = [
        "case",
        "exit code",
        "message names it",
        "nothing left over",
        "checkpoints intact",
        "bits equal in the end",
    ]
    rows = [list(case.values())[: len(heads) - 1] + [case["bits_equal"]] for case in cases]
    return Outcome(heads, rows, failures, facts={"cases": cases, "state_bytes": state_bytes})


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Mount a tmpfs in `place` while the body runs.

    Raises:
        NotPossibleError: it cannot be mounted.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise NotPossibleError(f"{place}: a tmpfs cannot be mounted ({error.strerror})") from None
    if done.returncode:
        raise NotPossibleError(f"{place}: a tmpfs cannot be mounted, which needs root ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, free_bytes: int = 0) -> None:
    """Fill the disk up to `free_bytes`."""
    ballast_bytes = shutil.disk_usage(place / "runs").free - free_bytes
    descriptor = os.open(place / "runs" / BALLAST, os.O_RDWR | os.O_CREAT)
    try:
        size = os.fstat(descriptor).st_size
        while ballast_bytes >= PAGE:
            with contextlib.suppress(OSError):
                os.posix_fallocate(descriptor, size, ballast_bytes)
                break
            ballast_bytes -= PAGE
    finally:
        os.close(descriptor)


def begin(place: Path) -> list[int]:
    """Train one step and stop; return the steps of the checkpoints."""
    start = Start(place, *SETTINGS, *ONE_STEP)
    if fault := start.fault(start.finish(), UNFINISHED_CODE):
        raise RuntimeError(fault)
    return saved_steps(place)


def refused_before(place: Path, state_bytes: int) -> dict:
    """A resume finds less than twice the state free."""
    before = begin(place)
    fill(place, state_bytes)
    start = Start(place, *SETTINGS, *ONE_STEP)
    code = start.finish()
    return examine(start, code, before, r"needs [\d.]+ MB of free disk space .*found [\d.]+ MB")


def fills_up_during_save(place: Path) -> dict:
    """Another process takes the rest of the disk once the folder of a checkpoint has appeared."""
    before = begin(place)
    for _ in range(MAX_TRIES):
        start = Start(place, *SETTINGS, *ONE_STEP)
        thread = threading.Thread(target=lambda s=start: s.wait_for(s.unfinished) and fill(place))
        thread.start()
        code = start.finish()
        thread.join()
        if code != UNFINISHED_CODE:
            return examine(start, code, before, r"needs [\d.]+ MB.*No space left|No space left.*needs [\d.]+ MB")
        (place / "runs" / BALLAST).unlink(missing_ok=True)
        before = saved_steps(place)  # it was quicker than the disk could be filled: once more
    return {"code": code, "named": False, "clean": True, "intact": True, "faults": ["no save was hit"]}


def full_before_resume(place: Path) -> dict:
    """A resume finds a disk without a free byte."""
    before = begin(place)
    fill(place)
    start = Start(place, *SETTINGS)
    return examine(start, start.finish(), before, r"(No space left|free disk space)")


def no_byte_for_log(place: Path) -> dict:
    """The log of the run has reached the end of a page of the full disk."""
    before = begin(place)
    log = run_of(place) / "train.log"
    with log.open("a") as file:
        file.write("-" * (-(log.stat().st_size + 1) % PAGE) + "\n")
    fill(place)
    start = Start(place, *SETTINGS)
    return examine(start, start.finish(), before, r"(No space left|free disk space)")


def no_byte_for_lock(place: Path) -> dict:
    """The process cannot write down that it holds the run directory."""
    before = begin(place)
    (run_of(place) / "lock").unlink()
    fill(place)
    start = Start(place, *SETTINGS)
    return examine(start, start.finish(), before, r"(No space left|free disk space)")


def full_during_steps(place: Path) -> dict:
    """The disk is full before the record of the first evaluation is written."""
    before = begin(place)
    start = Start(place, *SETTINGS)
    start.wait_for(lambda: "DEBUG step" in start.log())
    fill(place)
    return examine(start, start.finish(), before, r"(No space left|free disk space)", later=True)


def read_only(place: Path) -> dict:
    """The disk of the run cannot be written to."""
    before = begin(place)
    remount = ["mount", "-o", "remount,ro", str(place / "runs")]
    if (done := subprocess.run(remount, capture_output=True, text=True)).returncode:
        raise NotPossibleError(f"{place}: cannot be made read-only ({done.stderr.strip()})")
    try:
        start = Start(place, *SETTINGS)
        code = start.finish()
    finally:
        subprocess.run([*remount[:2], "remount,rw", remount[3]], check=True)
    return examine(start, code, before, r"cannot be written .*Read-only")


def full_at_start(place: Path) -> dict:
    """A new run finds a disk without a free byte."""
    fill(place)
    start = Start(place, *SETTINGS)
    return examine(start, start.finish(), [], r"No space left")


def two_processes(place: Path) -> dict:
    """A second process resumes the run of one that is still at work."""
    first = Start(place, *SETTINGS, held=("save", 2))
    assert first.wait_for(first.held_file.exists), first.output()
    before = saved_steps(place)
    second = Start(place, *SETTINGS)
    code = second.finish()
    case = examine(
        second, code, before, rf"another process trains in this run directory \(process {first.process.pid} "
    )
    first.kill()
    return case


def examine(start: Start, code: int, before: list[int], message: str, later: bool = False) -> dict:
    """Return how a start ended, what is left of it, and what should not be.

    Args:
        start: it.
        code: its exit code.
        before: steps of the checkpoints before.
        message: a pattern of what must be said.
        later: whether further checkpoints may have been saved before the fault.
    """
    (start.folder / "runs" / BALLAST).unlink(missing_ok=True)
    steps, faults = saved_steps(start.folder), []
    named = re.search(message, start.output(), re.S) is not None
    clean = not list(start.folder.glob("runs/*/checkpoints/unfinished_*"))
    intact = set(before) <= set(steps) and (later or steps == before)
    faults += [fault] if (fault := start.fault(code, USER_ERROR_CODE)) else []
    faults += [] if named else [f"the message does not say it: {start.output().strip()[-300:]}"]
    faults += [] if clean else ["an unfinished checkpoint is left"]
    faults += [] if intact else [f"the checkpoints were {before} and are {steps}"]
    said = [line for line in start.output().splitlines() if line.startswith("error:")]
    return {"code": code, "named": named, "clean": clean, "intact": intact, "faults": faults, "said": said}


def finish(place: Path, whole: Path) -> list[str]:
    """Resume, now that there is room, to the end; return what differs from the run that nobody interrupted."""
    start = Start(place, *SETTINGS)
    fault = start.fault(start.finish())
    return [fault] if fault else differences(run_of(place), whole)
