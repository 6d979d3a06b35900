"""Convolutions over time, and the feed-forward sequential memory made of one.

Letters: b batch, t frames or tokens, d width in, f width out, k taps of the kernel.
"""

import functools

import chex
import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("left",))
def depthwise_conv1d(x_btd, kernel_kd, *, left: int):
    """Return each channel convolved with its own kernel; outside of the sequence there are zeros.

    y[t] = Σ_i kernel[i] · x[t − left + i]

    It is written as k shifted multiply-adds: a grouped convolution of the compiler, one group a channel, is many times
    slower on a CPU.

    Args:
        x_btd: float[b, t, d].
        kernel_kd: float[k, d].
        left: taps before the present frame: (k − 1)/2 is centred, k − 1 causal.

    Returns:
        y_btd: float[b, t, d].
    """
    chex.assert_rank([x_btd, kernel_kd], [3, 2])
    chex.assert_type([x_btd, kernel_kd], float)
    chex.assert_equal(x_btd.shape[-1], kernel_kd.shape[-1])
    taps, num_frames = kernel_kd.shape[0], x_btd.shape[1]
    padded_bsd = _pad(x_btd, left, taps)
    return sum(padded_bsd[:, i : i + num_frames] * kernel_kd[i][None, None, :] for i in range(taps))


@functools.partial(jax.jit, static_argnames=("left",))
def fsmn_memory(v_btd, kernel_kd, valid_bt, *, left: int):
    """Return the feed-forward sequential memory of `v`: what its neighbours in time say about a frame, and itself.

    memory[t] = v[t] + Σ_i kernel[i] · v[t − left + i], with v = 0 in padded frames

    Args:
        v_btd: float[b, t, d], values.
        kernel_kd: float[k, d].
        valid_bt: bool[b, t], True for real frames.
        left: taps before the present frame.

    Returns:
        memory_btd: float[b, t, d], 0 in padded frames.

    Reference: Zhang et al., 2018 (deep FSMN); Gao et al., 2020 (SAN-M), equation 8.
    """
    chex.assert_shape(valid_bt, v_btd.shape[:2])
    chex.assert_type(valid_bt, bool)
    v_btd = jnp.where(valid_bt[..., None], v_btd, 0)
    return jnp.where(valid_bt[..., None], depthwise_conv1d(v_btd, kernel_kd, left=left) + v_btd, 0)


@functools.partial(jax.jit, static_argnames=("left",))
def conv1d(x_btd, kernel_kdf, bias_f, *, left: int):
    """Return the convolution of a sequence over time; outside of it there are zeros.

    y[t] = bias + Σ_i x[t − left + i] · kernel[i], one matrix product of k neighbouring frames side by side

    Args:
        x_btd: float[b, t, d].
        kernel_kdf: float[k, d, f].
        bias_f: float[f].
        left: taps before the present frame.

    Returns:
        y_btf: float[b, t, f].
    """
    chex.assert_rank([x_btd, kernel_kdf, bias_f], [3, 3, 1])
    chex.assert_type([x_btd, kernel_kdf, bias_f], float)
    taps, d, f = kernel_kdf.shape
    chex.assert_equal(x_btd.shape[-1], d)
    num_frames = x_btd.shape[1]
    padded_bsd = _pad(x_btd, left, taps)
    beside_btk = jnp.concatenate([padded_bsd[:, i : i + num_frames] for i in range(taps)], axis=-1)
    return beside_btk @ kernel_kdf.reshape(taps * d, f) + bias_f[None, None, :]


def _pad(x_btd, left: int, taps: int):
    return jnp.pad(x_btd, ((0, 0), (left, taps - 1 - left), (0, 0)))
