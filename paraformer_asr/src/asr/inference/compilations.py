"""Counts what jax compiles, so that a program can show that nothing is compiled once it is warm."""

import threading
from types import TracebackType

import jax.monitoring

BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"
"""The event that jax reports whenever a program is handed to the compiler, or taken from the cache on the disk."""


class CompilationCounter:
    """Counts compilations in the whole process, from its making until `close`.

    Attributes:
        count: programs compiled so far.
        seconds: that it took; threads that compile side by side are added up.
    """

    def __init__(self):
        self.count = 0
        self.seconds = 0.0
        self._lock = threading.Lock()
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def close(self) -> None:
        """Stop counting."""
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def __enter__(self) -> "CompilationCounter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self, event: str, seconds: float, **_: str | int) -> None:
        if event == BACKEND_COMPILE:
            with self._lock:
                self.count += 1
                self.seconds += seconds
