"""Checks of tensors: their shapes while tracing, their values on the host.

The networks and the programs made of them check what they are called with by `assert_shape`, which names the tensor in
its message. The operations inside use `chex`. Both see only shapes, so they cost nothing once a function is compiled.
`check_nan_inf` looks at values; it is for scripts, notebooks and tests.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_AXIS = re.compile(r"\d+|[A-Za-z_]\w*")


def assert_shape(x: Any, pattern: str, name: str = "tensor", **sizes: int) -> dict[str, int]:
    """Return the size of each letter after checking `x` against a pattern such as "B,H,W,3".

    Works on arrays and, inside `jax.jit`, on tracers. Passing the result on checks that two tensors agree:
    `dims = assert_shape(image, "B,H,W,3", "image")`, then `assert_shape(mask, "B,H,W", "mask", **dims)`.

    Args:
        x: anything with a `shape`.
        pattern: one entry for each axis: a number is the exact size, a letter or word any size, the same wherever it
            recurs. An empty pattern is a scalar.
        name: what the message calls the tensor.
        **sizes: letters whose size is known already; letters that are not in the pattern are ignored.

    Raises:
        AssertionError: with name, pattern and shape.
        ValueError: a malformed pattern.
    """
    axes = [axis.strip() for axis in pattern.split(",")] if pattern.strip() else []
    malformed = [axis for axis in axes if not _AXIS.fullmatch(axis)]
    if malformed:
        raise ValueError(f"pattern {pattern!r}: expected letters and numbers between commas, found {malformed[0]!r}")
    shape = tuple(x.shape)
    mismatch = f"{name}: expected shape [{pattern}], found {list(shape)}"
    if len(shape) != len(axes):
        raise AssertionError(f"{mismatch}: {len(axes)} axes expected, {len(shape)} found")
    known = dict(sizes)
    for position, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        expected = int(axis) if axis.isdigit() else known.setdefault(axis, size)
        if size != expected:
            raise AssertionError(f"{mismatch}: axis {position} ({axis}) should be {expected}, is {size}")
    return {axis: known[axis] for axis in axes if not axis.isdigit()}


def check_nan_inf(x: Any, name: str) -> None:
    """Raise FloatingPointError if a concrete array holds NaN or an infinity: with counts, first index and finite range.

    This needs the values, so it runs on the host and waits for the device: not for the inner loop. Inside `jax.jit`
    there are no values yet (a TypeError); return the array from the jitted function and check it there, or set
    `JAX_DEBUG_NANS=True` to have every operation checked. Whole numbers and bools are always finite.
    """
    if isinstance(x, jax.core.Tracer):
        raise TypeError(
            f"{name}: check_nan_inf needs concrete values, but this one is being traced by jax; "
            "return it from the jitted function and check it there"
        )
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return
    values = np.asarray(x)
    values = values if values.dtype.kind in "fc" else values.astype(np.float32)  # bfloat16 is no numpy dtype
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    first = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
    finite = values[~bad]
    span = f"finite values from {finite.min():.6g} to {finite.max():.6g}" if finite.size else "no finite value"
    raise FloatingPointError(
        f"{name}: {np.isnan(values).sum()} NaN and {np.isinf(values).sum()} infinite of {values.size} values "
        f"(shape {list(values.shape)}, {jnp.result_type(x)}), the first at {first}; {span}"
    )
