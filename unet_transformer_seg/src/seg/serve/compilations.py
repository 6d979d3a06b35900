"""Counts the programs that jax compiles, or loads from its cache, in this process."""

import jax.monitoring

COMPILED = "/jax/core/compile/backend_compile_duration"


class _Count:
    """Listens for as long as the process lives: jax offers no way to stop."""

    def __init__(self):
        self.number = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, _: float, **details) -> None:
        self.number += event == COMPILED


_count: _Count | None = None


def count_compilations() -> int:
    """Return how many programs were compiled since the first call."""
    global _count
    _count = _count or _Count()
    return _count.number
