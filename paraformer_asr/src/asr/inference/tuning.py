"""What makes inference fast: weights in their final form, and the compiler's options.

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


@dataclasses.dataclass(frozen=True, eq=False)
class Products:
    """A way to compute the matrix products of a program."""

    options: dict[str, str | bool]  # of the compiler
    turned: bool  # kernels are transposed, outputs first


BY_DEFAULT = Products({}, turned=False)
BY_YNNPACK = Products({}, turned=True)
BY_EIGEN = Products({"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}, turned=False)
BY_ONEDNN = Products(
    {"xla_cpu_use_onednn": True, "xla_cpu_experimental_onednn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}, turned=True
)
FIRST_JAX_WITH_FAST_ONEDNN = (0, 12)
"""First version in which oneDNN is fast: with 0.10.2 it takes 1.2 times as long as YNNPACK; 0.11 was not measured."""

IN_FLOAT32 = ("predictor", "timestamps")  # parts of the network

CPU_INFO = Path("/proc/cpuinfo")


def ready_weights(config: Config, variables: Any) -> tuple[Config, Any]:
    """Return the config and the variables {"params": …} as they are computed with.

    A scanned encoder is unrolled: its layers run up to twice as fast one by one. In bfloat16, kernels are rounded once,
    and not at every call; both heads of the predictor stay float32, as they are computed.
    """
    if config.model.name == "custom":
        return config, variables
    params = variables["params"]
    if config.model.encoder.scan:
        params = unstack_blocks(params)
        encoder = dataclasses.replace(config.model.encoder, scan=False)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))
    if config.model.dtype == "bfloat16":
        params = {name: part if name in IN_FLOAT32 else _round_kernels(part) for name, part in params.items()}
    return config, {**variables, "params": params}


def choose_products(config: ModelConfig) -> Products:
    """Return the fastest way to compute a model's matrix products on the devices of this process.

    Only float32 on a CPU has a choice. With 512-bit vectors oneDNN wins, or Eigen with an older jax on one core;
    otherwise YNNPACK, the compiler's default, does. `docs/performance.md` has the figures. Only programs that this
    process compiles for itself depend on the choice, never an exported one.
    """
    if jax.default_backend() != "cpu" or config.dtype != "float32":
        return BY_DEFAULT
    if has_avx512() and jax.__version_info__ >= FIRST_JAX_WITH_FAST_ONEDNN and _accepts(BY_ONEDNN):
        return BY_ONEDNN
    if num_cores() > 1:
        return BY_YNNPACK
    return BY_EIGEN if has_avx512() and _accepts(BY_EIGEN) else BY_DEFAULT


class PackedWeights:
    """The variables of a model on the device, in the layout that its programs read fastest: their first argument."""

    def __init__(self, config: ModelConfig, variables: Any):
        products = choose_products(config)
        self.options, self._turns = products.options, products.turned
        self.arrays = jax.device_put(self._turn(variables))

    @property
    def variables(self) -> Any:
        """The variables as the model knows them, copied where need be."""
        return self._turn(self.arrays)

    def reading(self, program: Callable) -> Callable:
        """Return `program(variables, …)` as a function of the arrays; the products absorb the transposition."""
        return lambda arrays, *rest: program(self._turn(arrays), *rest)

    def _turn(self, variables: Any) -> Any:
        """Return the tree with each matrix but the predictor's transposed; its own inverse."""
        return jax.tree_util.tree_map_with_path(_turn_kernel, variables) if self._turns else variables


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def has_avx512() -> bool:
    """Return whether the processor has 512-bit vectors; False where this cannot be read."""
    try:
        return re.search(r"^flags\b.*\bavx512f\b", CPU_INFO.read_text(), re.MULTILINE) is not None
    except OSError:
        return False


@functools.cache
def _accepts(products: Products) -> bool:
    """Return whether this version of the compiler knows the options."""
    lowered = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), jnp.float32))
    try:
        lowered.compile(compiler_options=products.options)
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
        is_kernel = path and path[-1].key == "kernel"  # SenseVoice's table of queries has no path below its own name
        return jnp.asarray(leaf, jnp.bfloat16) if is_kernel else leaf

    return jax.tree_util.tree_map_with_path(convert, part)
