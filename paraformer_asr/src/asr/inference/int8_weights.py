"""The weights of a model in 8-bit integers, for `inference.dtype: int8`, and back.

Letters: d width in, f width out.
"""

from typing import Any

import flax.traverse_util
import jax
import numpy as np

from asr.models.layers import INT8_STEPS
from asr.ops.int8 import quantize_kernel

MAPS = frozenset({"qkv", "out", "expand", "contract", "q", "kv", "input"})
"""Names of the linear maps that are computed in int8. The output layer stays float32: it decides between tokens."""


def quantize_maps(variables: Any) -> dict[str, Any]:
    """Return the variables {"params": …} with the kernels of linear maps in int8 and the steps beside them."""
    params, steps = flax.traverse_util.flatten_dict(variables["params"]), {}
    for path, kernel_df in params.items():
        if path[-1] == "kernel" and path[-2:-1] and path[-2] in MAPS and kernel_df.ndim == 2:
            params[path], steps[path] = _quantize(kernel_df)
    nested = {"params": params, INT8_STEPS: steps}
    return {**variables, **{name: flax.traverse_util.unflatten_dict(part) for name, part in nested.items()}}


def float_variables(variables: Any) -> dict[str, Any]:
    """Return the variables {"params": …} in float32, whatever they are computed in."""
    steps = flax.traverse_util.flatten_dict(variables.get(INT8_STEPS, {}))
    params = {
        path: np.asarray(leaf, np.float32) * (np.asarray(steps[path])[None] if path in steps else np.float32(1))
        for path, leaf in flax.traverse_util.flatten_dict(variables["params"]).items()
    }
    others = {name: part for name, part in variables.items() if name not in ("params", INT8_STEPS)}
    return {**others, "params": flax.traverse_util.unflatten_dict(params)}


_quantize = jax.jit(quantize_kernel)
