"""Dropout whose random bits are a hash of key and position.

`jax.random` spends some thirty operations on each random word, and on a CPU the masks of a small network then cost
more than its matrix products. A mask needs no cryptographic bits: here each element hashes its own
position, in seven operations that the compiler fuses into the multiplication.
"""

import functools

import chex
import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("rate",))
def dropout(x, key, rate: float):
    """Return `x` with a share `rate` of its elements set to 0 and the others divided by 1 − rate.

    Args:
        x: float[...], any shape.
        key: random key; the same key drops the same elements.
        rate: expected share, 0 ≤ rate < 1.

    Reference: Srivastava et al., 2014.
    """
    chex.assert_type(x, float)
    if rate == 0:
        return x
    # Compared as integers. The factor keeps the expected value, so that inference needs none.
    threshold = jnp.uint32(round(rate * 2**32))
    return jnp.where(random_bits(key, x.shape) >= threshold, x * (1.0 / (1.0 - rate)), jnp.zeros((), x.dtype))


def random_bits(key, shape: tuple[int, ...]):
    """Return uint32[shape], every word a hash of its position and the key; at most 2³² elements differ."""
    first, second = jax.random.bits(key, (2,), jnp.uint32)  # of fold_in and split keys too
    # The golden ratio spreads neighbouring positions over all bits; each round takes one word of the key.
    position = _flat_positions(shape)
    return _mix(_mix(position * jnp.uint32(0x9E3779B9) + first) ^ second)


def _flat_positions(shape: tuple[int, ...]):
    """Return uint32[shape], the row-major position of every element, as a sum of iotas that fuses."""
    position, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        position += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return position


def _mix(x):
    """Return a bijection of 32-bit words in which every bit of `x` changes every bit of the result half of the time.

    Reference: the finaliser "lowbias32" from Wellons' hash prospector, 2018.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
