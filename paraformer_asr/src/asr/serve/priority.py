"""The event loop goes before what computes, so that a probe or a refusal waits for no batch, even on one core."""

import gc
import os
import threading
from contextlib import suppress
from pathlib import Path

NICENESS = 5
"""Added to the niceness of threads and processes that compute: they get a third of the event loop's weight."""


def prefer_this_thread() -> None:
    """Lower the priority of the process's other threads, where the system has one for each thread (Linux).

    What exists by now is exempt from garbage collection: a collection that visits all of jax's objects stops every
    thread for a tenth of a second. Outside the main thread nothing happens: the process belongs to another program.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    gc.collect()
    gc.freeze()
    tasks, own = Path("/proc/self/task"), threading.get_native_id()
    for other in {int(task.name) for task in tasks.iterdir()} - {own} if tasks.is_dir() else ():
        with suppress(OSError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, other, os.getpriority(os.PRIO_PROCESS, other) + NICENESS)
