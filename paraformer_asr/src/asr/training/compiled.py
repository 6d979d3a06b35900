"""Compiles a step once for each shape of a batch, where a signal can interrupt the waiting."""

from collections.abc import Callable
from typing import Any

import jax

from asr.compiler import compile_program
from asr.watch.supervisor import Supervisor


class CompiledStep:
    """Calls a jitted function, and lets the supervisor wait for its compilation.

    Attributes:
        last: the program that was called last, or None; tells what memory it needs.
    """

    def __init__(self, function: Any, supervisor: Supervisor):
        self._function, self._supervisor = function, supervisor
        self._programs: dict[tuple, Callable] = {}
        self.last = None

    def is_ready(self, batch: dict[str, jax.Array]) -> bool:
        """Return whether batches of this shape have been compiled for."""
        return self._shapes(batch) in self._programs

    def __call__(self, state: Any, batch: dict[str, jax.Array], *flags: jax.Array) -> Any:
        """Return what the function returns.

        Raises:
            StopRequestedError: the run is to stop, and a compilation was under way.
        """
        shapes = self._shapes(batch)
        if shapes not in self._programs:
            self._programs[shapes] = self._supervisor.result_of(compile_program, self._function, state, batch, *flags)
        self.last = self._programs[shapes]
        return self.last(state, batch, *flags)

    def _shapes(self, batch: dict[str, jax.Array]) -> tuple:
        return tuple(array.shape for array in batch.values())
