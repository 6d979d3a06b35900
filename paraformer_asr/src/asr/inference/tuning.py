"""What makes a trained model quick to use: weights in their final form, and the compiler's options.

Neither changes an answer beyond rounding. The figures are those of paraformer-large and 10 s of sound on one CPU core.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from asr.config import Config, ModelConfig
from asr.models import unstack_blocks

PRODUCTS_BY_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
"""float32 matrix products by Eigen instead of YNNPACK, which keeps the sums over rows: encoder 448 → 388 ms, decoder
93 → 61 ms (jax 0.12). In bfloat16 it is the other way round."""


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
    if jax.default_backend() != "cpu" or config.dtype != "float32":
        return {}
    return PRODUCTS_BY_EIGEN if _accepts_eigen() else {}


@functools.cache
def _accepts_eigen() -> bool:
    """Return whether this version of the compiler knows the option."""
    lowered = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), jnp.float32))
    try:
        lowered.compile(compiler_options=PRODUCTS_BY_EIGEN)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _round_kernels(part: Any) -> Any:
    """Return the parameters with matrices and taps in bfloat16; scales and biases are small and stay."""

    def convert(path: tuple, leaf: Any) -> Any:
        return jnp.asarray(leaf, jnp.bfloat16) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(convert, part)
