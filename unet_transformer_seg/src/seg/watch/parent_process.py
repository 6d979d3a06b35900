"""A small parent of each process of a distributed run, which outlives it and reports why it ended.

When one process dies, jax's runtime aborts the others from inside the library. The parent waits outside, prints one
clear line and exits with a documented code. It does not import jax.
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
    """Return the exit code of `work(report_resume_command)`, called in a child process.

    No thread may have been started before. Signals are passed on to the child. A child that aborts because a peer is
    lost gives `EXIT_PEER_LOST`, a killed one 128 + the number of the signal, as in a shell.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.setpgid(0, 0)  # a signal from the terminal reaches the child once: through its parent
        sys.exit(work(lambda command: os.write(write_end, command.encode()) and None))
    os.close(write_end)
    listen(lambda number, _frame: os.kill(child, number))
    status = os.waitpid(child, 0)[1]
    resume_command = os.read(read_end, 4096).decode()
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    lost = number in ABORTED
    reason = (
        "training stopped: another process of this run died or became unreachable"
        if lost
        else f"killed by signal {number} ({signal.strsignal(number)}); if nobody sent it, the machine ran out of memory"
    )
    hint = f"resume with: {resume_command}" if resume_command else "there is no run directory yet: start again"
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        print(f"error: {reason}; {hint}, in all processes", file=sys.stderr, flush=True)
    return EXIT_PEER_LOST if lost else 128 + number
