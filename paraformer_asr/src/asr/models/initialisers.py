"""How fresh parameters are drawn. An initialiser is a function (key, shape, dtype) → array.

The last axis of a shape counts the outputs, the others together the inputs (`fan_in`). Draws are flat: on a CPU the
compiler takes longer for the random bits of each new shape.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Initialiser = Callable[..., jax.Array]


def fan_in_uniform(variance_times_fan_in: float = 1.0) -> Initialiser:
    """Return an initialiser of equally likely values with mean 0 and variance `variance_times_fan_in` / fan_in.

    1 keeps the spread of the features, 2 keeps it through a ReLU (He et al., 2015).
    """

    def init(key, shape, dtype=jnp.float32):
        # A uniform draw in ±bound has the variance bound² / 3.
        bound = math.sqrt(3 * variance_times_fan_in / math.prod(shape[:-1]))
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return init


def normal(spread: float) -> Initialiser:
    """Return an initialiser of normal values with mean 0 and standard deviation `spread`."""
    return lambda key, shape, dtype=jnp.float32: (
        jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape) * spread
    )


def constant(value: float) -> Initialiser:
    """Return an initialiser that gives `value` everywhere."""
    return lambda key, shape, dtype=jnp.float32: jnp.full(shape, value, dtype)
