"""A lock that keeps a run directory to one process, or one distributed job, at a time."""

import contextlib
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from seg.errors import UserError

LOCK_NAME = "lock"


@contextlib.contextmanager
def only_process(run_path: Path) -> Iterator[None]:
    """Hold the run directory while the context is active, or name the process that holds it.

    The system releases it however the process ends.
    """
    path = run_path / LOCK_NAME
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}), and training must; move it away, or make the "
            "run directory writable"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: expected a file of the run, found a pipe or a device; move it away")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _read_holder(path)
        os.close(descriptor)
        raise UserError(
            f"{run_path}: another process trains in this run directory ({holder}). Stop it or wait until it ends, "
            "then resume"
        ) from None
    except OSError:  # a file system without locks: nothing is refused there
        pass
    try:
        _write_holder(descriptor)
        yield
    finally:
        os.close(descriptor)


def _write_holder(descriptor: int) -> None:
    """Write who holds the lock, as far as the disk has room."""
    about = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(about).encode())


def _read_holder(path: Path) -> str:
    """Return the description that the holder wrote."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8")[:1000])
        return f"process {int(holder['process'])} on {holder['host']!s:.100}, since {holder['since']!s:.100}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it left no description"
