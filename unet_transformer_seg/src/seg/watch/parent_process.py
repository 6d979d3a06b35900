"""A small process beside each process of a distributed run, that outlives it and says why it ended.

When one process dies, jax's runtime ends the others with an abort inside of the library. This one waits outside, adds
one clear line and answers with a documented exit code. It holds no jax.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from seg.errors import EXIT_PEER_LOST
from seg.signals import listen

ABORTED = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)


def run_guarded(work: Callable[[Callable[[str], None]], int]) -> int:
    """Call `work(tell_run_path)` in a child process and return its exit code. No thread may have been started before.

    Signals are passed on. A child that was aborted because of a lost peer gives `EXIT_PEER_LOST`, one that was killed
    128 + the number of the signal, as in a shell.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.setpgid(0, 0)  # what the terminal sends reaches this process once: through its guardian
        sys.exit(work(lambda path: os.write(write_end, path.encode()) and None))
    os.close(write_end)
    listen(lambda number, _frame: os.kill(child, number))
    status = _wait(child)
    run_path = os.read(read_end, 4096).decode()
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    lost = number in ABORTED
    reason = (
        "the run broke off because another process of it is gone, or cannot be reached"
        if lost
        else f"the process was ended by signal {number} ({signal.strsignal(number)}); out of memory, if nobody sent it"
    )
    way_on = "no run directory was made yet: start again"
    if run_path:
        way_on = f"go on with: python -m seg.train --resume {run_path}"
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        print(f"error: {reason}; {way_on}, in all processes", file=sys.stderr, flush=True)
    return EXIT_PEER_LOST if lost else 128 + number


def _wait(child: int) -> int:
    """Return the status with which the child ended; signals interrupt the waiting, not this function."""
    while True:
        try:
            return os.waitpid(child, 0)[1]
        except InterruptedError:
            continue
