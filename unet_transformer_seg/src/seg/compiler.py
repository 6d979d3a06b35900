"""Compiles programs with the fastest options, and plans the memory that they need.

The options change results by rounding only, and only in programs that this process compiles for itself.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seg.allocator import give_back_freed

CONVOLUTIONS_BY_EIGEN = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}
"""YNNPACK computes the matrix products and the sums, Eigen the convolutions.
docs/performance.md has the measurements."""

CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def compiler_options() -> dict[str, str]:
    """Return the options for the programs of a model on the devices of this process.

    Only for a CPU with vectors of 256 bits or more; others were not measured.
    """
    if jax.default_backend() == "cpu" and has_avx2() and _knows(CONVOLUTIONS_BY_EIGEN):
        return CONVOLUTIONS_BY_EIGEN
    return {}


def has_avx2() -> bool:
    """Return whether the processor has vectors of 256 bits or more; False where this cannot be read."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    extensions = next((line.split() for line in lines if line.startswith("flags")), [])
    return "avx2" in extensions


def _knows(options: dict[str, str]) -> bool:
    """Return whether this version of the compiler accepts the options."""
    lowered = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), jnp.float32))
    try:
        lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compile_program(function: Any, *arguments: Any) -> jax.stages.Compiled:
    """Return the jitted function compiled for these arguments (arrays or their shapes), and keep nothing else.

    The compiler frees hundreds of megabytes that would otherwise stay resident for the life of the process:
    380 of the 820 MB that it has after compiling the step of the U-Net with 31 million parameters.
    """
    compiled = function.lower(*arguments).compile(compiler_options=compiler_options())
    give_back_freed()
    return compiled


class CompiledStep:
    """Calls a jitted step, compiled once for each shape of a batch.

    Attributes:
        last: the program that was called last, or None.
    """

    def __init__(self, function: Any, wait: Callable = lambda function, *arguments: function(*arguments)):
        """Args are the jitted function and `wait(compile, *arguments)`, which may be interrupted."""
        self._function, self._wait, self.last = function, wait, None
        self._programs: dict[tuple, Any] = {}

    def __call__(self, state: Any, batch: dict[str, jax.Array], *flags: jax.Array) -> Any:
        """Return what the function returns."""
        shapes = tuple(array.shape for array in batch.values())
        if shapes not in self._programs:
            self._programs[shapes] = self._wait(compile_program, self._function, state, batch, *flags)
        self.last = self._programs[shapes]
        return self.last(state, batch, *flags)


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """Bytes on each device, as the compiler plans them."""

    arguments: int  # state and batch
    workspace: int  # activations, gradients and everything else that exists only during the step
    results: int  # the new state, not counted where it replaces the old one in place

    @property
    def peak(self) -> int:
        """Bytes at once."""
        return self.arguments + self.workspace + self.results


def plan_memory(program: Any) -> MemoryNeed | None:
    """Return what a compiled program needs, or None where the compiler does not report it."""
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    return MemoryNeed(
        arguments=analysis.argument_size_in_bytes,
        workspace=analysis.temp_size_in_bytes,
        results=max(analysis.output_size_in_bytes - analysis.alias_size_in_bytes, 0),
    )
