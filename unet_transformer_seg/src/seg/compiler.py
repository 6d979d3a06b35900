"""What the compiler is told beyond the program; it changes no answer beyond rounding."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp

CONVOLUTIONS_BY_EIGEN = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}
"""Leaves YNNPACK the matrix products and the sums, and takes the convolutions from it.
docs/performance.md has the measurements."""

CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def compiler_options() -> dict[str, str]:
    """Return the options for the programs of a model on the devices of this process.

    Only a CPU whose vectors have 256 bits or more gets some; with other ones they have not been measured.
    """
    if jax.default_backend() == "cpu" and has_avx2() and _knows(CONVOLUTIONS_BY_EIGEN):
        return CONVOLUTIONS_BY_EIGEN
    return {}


def has_avx2() -> bool:
    """Return whether the processor has vectors of 256 bits or more; False where the system does not tell."""
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
