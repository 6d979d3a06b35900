"""Positions in time.

Letters: t frames, i input width.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.jit, static_argnums=(0, 1))
def sinusoid(num_frames: int, width: int):
    """Return a fixed code of each frame's position, as the published SAN-M encoder has it.

    With h = width/2, ω_k = 10000^(−k/(h − 1)) and positions p that start at 1:
    code[p] = [sin(p·ω_0), …, sin(p·ω_{h−1}), cos(p·ω_0), …, cos(p·ω_{h−1})]

    All sines come before all cosines, they do not alternate, and the slowest frequency is 1/10000 exactly.

    Reference: Vaswani et al., 2017, section 3.5.
    """
    # From one radian a frame down to 1/10000: near and far positions both differ in some of the columns.
    frequency_k = _frequencies(width)
    # From 1, as in the published model, whose weights depend on it.
    position_t = np.arange(1, num_frames + 1, dtype=np.float32)
    angle_tk = jnp.asarray(position_t[:, None] * frequency_k[None, :])
    return jnp.concatenate([jnp.sin(angle_tk), jnp.cos(angle_tk)], axis=-1)


@functools.partial(jax.jit, static_argnums=1)
def sinusoid_at(position_bt, width: int):
    """Return float32[b, t, width], the code of each position, from 1, for streams that are at different ones."""
    chex.assert_rank(position_bt, 2)
    chex.assert_type(position_bt, int)
    angle_btk = position_bt[..., None].astype(jnp.float32) * _frequencies(width)[None, None, :]
    return jnp.concatenate([jnp.sin(angle_btk), jnp.cos(angle_btk)], axis=-1)


def _frequencies(width: int) -> np.ndarray:
    chex.assert_is_divisible(width, 2)
    half = width // 2
    return np.exp(np.arange(half) * (-np.log(10000.0) / max(half - 1, 1))).astype(np.float32)
