"""What makes a trained model quick to use: weights in their final form, and the compiler's options.

Neither changes an answer beyond rounding. The figures are those of paraformer-large and 10 s of sound.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from asr.config import Config, ModelConfig
from asr.models import unstack_blocks

PRODUCTS_BY_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
"""float32 matrix products by Eigen instead of YNNPACK, which keeps the sums over rows. On one core with vectors of 512
bits the encoder takes 392 instead of 444 ms, the decoder 63 instead of 93 (jax 0.12); with 256 bits Eigen takes 1.7
times as long as YNNPACK. YNNPACK wins on two cores and in bfloat16, too."""

CPU_INFO = Path("/proc/cpuinfo")


def ready_weights(config: Config, variables: Any) -> tuple[Config, Any]:
    """Return the config and the variables as they are computed with.

    A scanned encoder is unrolled: its layers run up to twice as fast one by one. In bfloat16, kernels are rounded once,
    and not at every call; the predictor stays float32, as it is computed.

    Args:
        config: of the model.
        variables: {"params": …}.
    """
    params = variables["params"]
    if config.model.encoder.scan:
        params = unstack_blocks(params)
        encoder = dataclasses.replace(config.model.encoder, scan=False)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))
    if config.model.dtype == "bfloat16":
        params = {name: part if name == "predictor" else _round_kernels(part) for name, part in params.items()}
    return config, {**variables, "params": params}


def compiler_options(config: ModelConfig) -> dict[str, str]:
    """Return the options that the programs of a model are compiled with."""
    on_one_core = jax.default_backend() == "cpu" and num_cores() == 1
    if on_one_core and config.dtype == "float32" and has_avx512() and _accepts_eigen():
        return PRODUCTS_BY_EIGEN
    return {}


class PackedWeights:
    """The variables of a model on the device, in the layout that its programs read fastest.

    On several CPU cores, float32 kernels lie with their outputs in front: on two, the encoder takes 253 instead of
    258 ms and the decoder 44 instead of 55.

    Attributes:
        arrays: what the programs are given.
    """

    def __init__(self, config: ModelConfig, variables: Any):
        self._turns = jax.default_backend() == "cpu" and num_cores() > 1 and config.dtype == "float32"
        self.arrays = jax.device_put(self._turn(variables))

    @property
    def variables(self) -> Any:
        """The variables as the model knows them, copied where need be."""
        return self._turn(self.arrays)

    def reading(self, program: Callable) -> Callable:
        """Return `program(variables, …)` as a function of the arrays; the compiler turns nothing, it reads across."""
        return lambda arrays, *rest: program(self._turn(arrays), *rest)

    def _turn(self, variables: Any) -> Any:
        """Return the tree with each matrix of the encoder and the decoder transposed; twice is not at all."""
        return jax.tree_util.tree_map_with_path(_turn_kernel, variables) if self._turns else variables


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def has_avx512() -> bool:
    """Return whether the processor has vectors of 512 bits; False where the system does not tell."""
    try:
        return re.search(r"^flags\b.*\bavx512f\b", CPU_INFO.read_text(), re.MULTILINE) is not None
    except OSError:
        return False


@functools.cache
def _accepts_eigen() -> bool:
    """Return whether this version of the compiler knows the option."""
    lowered = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), jnp.float32))
    try:
        lowered.compile(compiler_options=PRODUCTS_BY_EIGEN)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _turn_kernel(path: tuple, leaf: Any) -> Any:
    names = [entry.key for entry in path]
    is_matrix = names[-1] == "kernel" and leaf.ndim == 2 and not {"memory", "predictor"} & set(names)
    return leaf.T if is_matrix else leaf


def _round_kernels(part: Any) -> Any:
    """Return the parameters with matrices and taps in bfloat16; scales and biases are small and stay."""

    def convert(path: tuple, leaf: Any) -> Any:
        return jnp.asarray(leaf, jnp.bfloat16) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(convert, part)
