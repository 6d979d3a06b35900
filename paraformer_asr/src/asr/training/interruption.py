"""Stopping a run at a step boundary: on Ctrl-C, on SIGTERM, or when its time is up."""

import os
import signal
import time

from asr.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_UNFINISHED


class Interruption:
    """Watches for a reason to stop; used as a context around the training loop.

    The signal handler sets a flag and nothing else: saving inside a handler can deadlock. A second signal
    exits at once.

    Attributes:
        exit_code: None while the run may go on, otherwise the code to exit with.
    """

    def __init__(self, max_minutes: float | None = None):
        self.exit_code: int | None = None
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Return whether the run should save and stop now."""
        if self.exit_code is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.exit_code = EXIT_UNFINISHED
        return self.exit_code is not None

    def _on_signal(self, number, _frame):
        code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED
        if self.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            os._exit(code)
        self.exit_code = code
