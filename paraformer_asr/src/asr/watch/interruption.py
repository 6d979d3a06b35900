"""Stops a run at a step boundary: on a signal that ordinarily ends a process, or when its time is up."""

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from asr.errors import EXIT_UNFINISHED
from asr.signals import IMPATIENT, exit_code_of, is_signal_code, listen, restore_handlers

POLL_S = 0.1  # polling interval of the stop flag, in seconds

SAME_SIGNAL_S = 1.0
"""Signals within this window count as one, in seconds: some launchers signal a process and its parent, which passes
the signal on."""


class StopRequestedError(Exception):
    """The run is asked to stop; what it was waiting for is abandoned."""


class Interruption:
    """Watches for a reason to stop; a context. Only the main thread can handle signals; elsewhere time alone counts.

    The signal handler sets a flag and nothing else: saving inside a handler can deadlock. A second SIGINT, SIGTERM or
    SIGQUIT ends the process immediately. The warnings of a scheduler (SIGUSR1 and the like) do not count as a first
    one, so that the SIGTERM after them cuts no save short. In a process that belongs to somebody else the second signal
    raises KeyboardInterrupt.

    Attributes:
        exit_code: None as long as there is no reason to stop, then the code to exit with.
    """

    def __init__(self, max_minutes: float | None = None, owns_process: bool = True):
        self.exit_code: int | None = None
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
        self._owns_process, self._previous, self._first_impatient = owns_process, {}, None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._previous = listen(self._on_signal)
        return self

    def __exit__(self, *_):
        restore_handlers(self._previous)

    def requested(self) -> bool:
        """Return whether the run should save and stop now."""
        if self.exit_code is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.exit_code = EXIT_UNFINISHED
        return self.exit_code is not None

    @property
    def signalled(self) -> bool:
        """Whether a signal was received: somebody waits for the end."""
        return is_signal_code(self.exit_code)

    def _on_signal(self, number, _frame):
        if not self.signalled:
            self.exit_code = exit_code_of(number)
        if number not in IMPATIENT:
            return
        now = time.monotonic()
        if self._first_impatient is None:
            self._first_impatient = now
        elif now - self._first_impatient >= SAME_SIGNAL_S:
            if not self._owns_process:
                raise KeyboardInterrupt
            os._exit(exit_code_of(number))


class Waiting:
    """Waits for slow work, such as data or a compilation, and polls a flag meanwhile.

    The work has a thread of its own. When the flag is set the thread is abandoned: it may hang, and the run can be
    saved all the same.
    """

    def __init__(self, stop_requested: Callable[[], bool]):
        self._stop_requested = stop_requested
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="waited for")

    def result_of(self, function: Callable, *arguments) -> Any:
        """Return `function(*arguments)`, or raise StopRequestedError if the flag was set before there was a result."""
        future = self._thread.submit(function, *arguments)
        while not concurrent.futures.wait([future], POLL_S).done:
            if self._stop_requested():
                raise StopRequestedError
        return future.result()

    def close(self) -> None:
        """Let the thread end when its work does."""
        self._thread.shutdown(wait=False)
