"""One process, or one distributed job, in a run directory at a time."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from asr.errors import UserError

LOCK_NAME = "lock"


@contextlib.contextmanager
def only_process(run_path: Path) -> Iterator[None]:
    """Hold the run directory while the body runs; the system lets go of it however the process ends.

    Raises:
        UserError: another process holds it, naming that one.
    """
    path = run_path / LOCK_NAME
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); training writes into its run directory"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{run_path}: another process trains in this run directory ({_describe_holder(file)}). "
                "Wait for its end, or stop it, and resume then"
            ) from None
        except OSError:  # a file system without locks: nothing is refused there
            pass
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": started}))
        file.flush()
        yield


def _describe_holder(file) -> str:
    """Return what the holder wrote about itself."""
    try:
        file.seek(0)
        holder = json.loads(file.read(1000))
        return f"process {int(holder['process'])} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it says nothing about itself"
