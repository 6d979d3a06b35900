"""Stopping a run at a step boundary: on a signal that ordinarily ends a process, or when its time is up."""

import concurrent.futures
import os
import time
from collections.abc import Callable
from typing import Any

from asr.errors import EXIT_UNFINISHED
from asr.signals import IMPATIENT, exit_code_of, is_signal_code, listen, restore_handlers

POLL_S = 0.1
"""So often whoever waits looks at the flag."""

SAME_SIGNAL_S = 1.0
"""Signals closer to each other than this are one."""


class StopRequestedError(Exception):
    """The run is asked to stop, and what it was waiting for is left."""


class Interruption:
    """Watches for a reason to stop; used as a context in the main thread.

    The signal handler sets a flag and nothing else: saving inside a handler can deadlock. A second SIGINT, SIGTERM or
    SIGQUIT, a second or more after the first, exits at once. (Some launchers signal a process and its parent, which
    passes it on.) A scheduler that warns with SIGUSR1 and sends SIGTERM at the end of its patience cuts no save short.

    Attributes:
        exit_code: None while the run may go on, otherwise the code to exit with.
    """

    def __init__(self, max_minutes: float | None = None):
        self.exit_code: int | None = None
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
        self._previous, self._first_impatient = {}, None

    def __enter__(self):
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
        """Whether a signal came: someone is waiting for the end."""
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
            os._exit(exit_code_of(number))


class Waiting:
    """Waits for what may take long, such as data or a compilation, and looks at a flag meanwhile.

    The work is done in a thread of its own. When the flag is set the thread is left to itself: it can hang, and
    the run can be saved all the same.
    """

    def __init__(self, stop_requested: Callable[[], bool]):
        self._stop_requested = stop_requested
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="waited for")

    def result_of(self, function: Callable, *arguments) -> Any:
        """Return `function(*arguments)`.

        Raises:
            StopRequestedError: the flag was set before there was a result.
            Exception: what the function raises.
        """
        future = self._thread.submit(function, *arguments)
        while not concurrent.futures.wait([future], POLL_S).done:
            if self._stop_requested():
                raise StopRequestedError
        return future.result()

    def close(self) -> None:
        """Let the thread end when its work does."""
        self._thread.shutdown(wait=False)
