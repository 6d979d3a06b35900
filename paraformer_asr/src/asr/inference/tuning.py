"""What makes inference fast: precision, weights in their final form, and the compiler's options.

None changes an answer beyond the rounding of the precision. The figures are those of paraformer-large and 10 s of
sound.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from asr.config import Config, ModelConfig
from asr.errors import UserError
from asr.inference.int8_weights import quantize_maps
from asr.inference.processor import num_cores, this_processor
from asr.models import unstack_blocks
from asr.models.layers import INT8_STEPS


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
FIRST_JAX_WITH_FAST_BFLOAT16 = (0, 12)
"""First version in which bfloat16 is faster than float32 on a CPU: with 0.10.2 it takes twice as long and more."""

FIRST_JAX_WITH_FAST_ONEDNN = (0, 12)
"""First version in which oneDNN is fast: with 0.10.2 it takes 1.2 times as long as YNNPACK; 0.11 was not measured."""

IN_FLOAT32 = ("predictor", "timestamps")  # parts of the network


def ready_weights(config: Config, variables: Any) -> tuple[Config, Any]:
    """Return the config and the variables {"params": …} as they are computed with.

    A scanned encoder is unrolled: its layers run up to twice as fast one by one. In bfloat16, kernels are rounded once,
    and not at every call; both heads of the predictor stay float32, as they are computed. In int8, activations stay
    float32.

    Raises:
        UserError: int8 on another device than a CPU.
    """
    if config.model.name == "custom":
        return config, variables
    params = variables["params"]
    if config.model.encoder.scan:
        params = unstack_blocks(params)
        encoder = dataclasses.replace(config.model.encoder, scan=False)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))
    dtype = choose_dtype(config)
    computed = "float32" if dtype == "int8" else dtype
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=computed))
    if dtype == "int8":
        return config, quantize_maps({**variables, "params": params})
    if dtype == "bfloat16":
        params = {name: part if name in IN_FLOAT32 else _round_kernels(part) for name, part in params.items()}
    return config, {**variables, "params": params}


def choose_products(config: ModelConfig) -> Products:
    """Return the fastest way to compute a model's matrix products on the devices of this process.

    Only a CPU has a choice. In float32 with 512-bit vectors oneDNN wins, but Eigen does with an older jax and on one
    core of another maker than Intel; in bfloat16 oneDNN wins with AVX-512 BF16 where there is no AMX. Otherwise it is
    YNNPACK, the compiler's default. `docs/performance.md` has the figures. Only programs that this process compiles
    for itself depend on the choice, never an exported one.
    """
    if jax.default_backend() != "cpu":
        return BY_DEFAULT
    processor, one_core = this_processor(), num_cores() == 1
    has_fast_onednn = processor.has_avx512 and jax.__version_info__ >= FIRST_JAX_WITH_FAST_ONEDNN
    if config.dtype == "bfloat16":
        by_onednn = has_fast_onednn and processor.has_avx512_bf16 and not processor.has_amx_bf16
        return BY_ONEDNN if by_onednn and _accepts(BY_ONEDNN) else BY_DEFAULT
    if has_fast_onednn and (processor.is_intel or not one_core) and _accepts(BY_ONEDNN):
        return BY_ONEDNN
    if not one_core:
        return BY_YNNPACK
    return BY_EIGEN if processor.has_avx512 and _accepts(BY_EIGEN) else BY_DEFAULT


def choose_dtype(config: Config) -> str:
    """Return the dtype to compute in: float32, bfloat16 or int8.

    `auto` is what is fastest without int8: bfloat16 on a CPU with units for it and a compiler that uses them, otherwise
    float32; on another device the model's own dtype.

    Raises:
        UserError: int8 on another device than a CPU.
    """
    asked, on_cpu = config.inference.dtype, jax.default_backend() == "cpu"
    if asked == "int8" and not on_cpu:
        raise UserError(f"inference.dtype: int8 is for CPUs, this is {jax.default_backend()}; bfloat16 is faster here")
    if asked == "auto" and on_cpu:
        is_fast = this_processor().has_bfloat16 and jax.__version_info__ >= FIRST_JAX_WITH_FAST_BFLOAT16
        return "bfloat16" if is_fast else "float32"
    return config.model.dtype if asked in ("model", "auto") else asked


class PackedWeights:
    """The variables of a model on the device, in the layout that its programs read fastest: their first argument."""

    def __init__(self, config: ModelConfig, variables: Any):
        products = BY_YNNPACK if INT8_STEPS in variables else choose_products(config)
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
