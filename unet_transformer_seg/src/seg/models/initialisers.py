"""How fresh parameters are drawn. An initialiser is a function (key, shape, dtype) → array.

The last axis of a shape counts the outputs, the others together the inputs (`fan_in`).

Every draw is of a flat array: on a CPU the compiler takes seconds for the random bits of each new shape with four
axes, and a fifth of a second for a flat one. The values are the same.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Initialiser = Callable[..., jax.Array]

TRUNCATED_SPREAD = 0.87962566
"""Standard deviation of a normal distribution cut off at ±2."""


def truncated_normal(variance_times_fan_in: float) -> Initialiser:
    """Return an initialiser with mean 0 and standard deviation √(variance_times_fan_in / fan_in).

    2 keeps the spread of the features through a ReLU (He et al., 2015), 1 where no ReLU follows.
    """

    def init(key, shape, dtype=jnp.float32):
        spread = math.sqrt(variance_times_fan_in / math.prod(shape[:-1]))
        return _normal(key, shape, dtype) * spread

    return init


def table_normal(spread: float) -> Initialiser:
    """Return an initialiser with mean 0 and standard deviation `spread`, whatever the shape."""
    return lambda key, shape, dtype=jnp.float32: _normal(key, shape, dtype) * spread


def xavier_uniform(variance_factor: float = 1.0) -> Initialiser:
    """Return an initialiser of values in ±√(6 · variance_factor / (inputs + outputs)), all equally likely.

    Reference: Glorot and Bengio, 2010, equation 16.
    """

    def init(key, shape, dtype=jnp.float32):
        bound = math.sqrt(6 * variance_factor / (math.prod(shape[:-1]) + shape[-1]))
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return init


def _normal(key, shape, dtype):
    """Return normal values cut off at two standard deviations and stretched back to a standard deviation of 1."""
    return jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype).reshape(shape) / TRUNCATED_SPREAD
