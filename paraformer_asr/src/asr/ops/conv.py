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

    Args:
        x_btd: float[b, t, d].
        kernel_kd: float[k, d].
        left: taps before the present frame: (k − 1)/2 is centred, k − 1 causal.
    """
    chex.assert_rank([x_btd, kernel_kd], [3, 2])
    chex.assert_type([x_btd, kernel_kd], float)
    chex.assert_equal(x_btd.shape[-1], kernel_kd.shape[-1])
    return _depthwise(x_btd, kernel_kd, left)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x_btd, kernel_kd, left: int):
    """Return the shifted multiply-adds of `depthwise_conv1d`; their gradients are written out below."""
    # k shifted multiply-adds: a grouped convolution, one group a channel, is many times slower on a CPU.
    return sum(
        shifted_btd * kernel_kd[i][None, None, :]
        for i, shifted_btd in enumerate(_shifted(x_btd, left, kernel_kd.shape[0]))
    )


def _depthwise_forward(x_btd, kernel_kd, left: int):
    return _depthwise(x_btd, kernel_kd, left), (x_btd, kernel_kd)


def _depthwise_backward(left: int, saved, dy_btd):
    """Return the gradients: dx is dy convolved with the turned kernel, dkernel[i] = Σ_bt dy[t] · x[t − left + i]."""
    x_btd, kernel_kd = saved
    taps = kernel_kd.shape[0]
    # Computed once: the compiler would repeat what made it, such as the mask of a dropout, for each tap.
    dy_btd = jax.lax.optimization_barrier(dy_btd)
    # The gradient of a shift is the shift back: the same convolution with its kernel turned.
    dx_btd = _depthwise(dy_btd, kernel_kd[::-1], taps - 1 - left)
    sums = [
        jnp.einsum("btd,btd->d", dy_btd, shifted_btd, preferred_element_type=jnp.float32)
        for shifted_btd in _shifted(x_btd, left, taps)
    ]
    return dx_btd.astype(x_btd.dtype), jnp.stack(sums).astype(kernel_kd.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _shifted(x_btd, left: int, taps: int) -> list:
    """Return, for each tap i, the sequence x[t − left + i], zeros outside."""
    padded_bsd = _pad(x_btd, left, taps)
    return [padded_bsd[:, i : i + x_btd.shape[1]] for i in range(taps)]


@functools.partial(jax.jit, static_argnames=("left",))
def fsmn_memory(v_btd, kernel_kd, valid_bt, *, left: int):
    """Return the feed-forward sequential memory of `v`: what its neighbours in time say about a frame, and itself.

    memory[t] = v[t] + Σ_i kernel[i] · v[t − left + i], with v = 0 in padded frames

    Args:
        v_btd: float[b, t, d], values.
        kernel_kd: float[k, d].
        valid_bt: bool[b, t], True for real frames.
        left: taps before the present frame.

    Reference: Zhang et al., 2018 (deep FSMN); Gao et al., 2020 (SAN-M), equation 8.
    """
    chex.assert_shape(valid_bt, v_btd.shape[:2])
    chex.assert_type(valid_bt, bool)
    # Padding enters no neighbour, and below gets nothing from them.
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
    """
    chex.assert_rank([x_btd, kernel_kdf, bias_f], [3, 3, 1])
    chex.assert_type([x_btd, kernel_kdf, bias_f], float)
    taps, d, f = kernel_kdf.shape
    chex.assert_equal(x_btd.shape[-1], d)
    num_frames = x_btd.shape[1]
    # The k neighbours of each frame side by side, so that one large matrix product does all the work.
    padded_bsd = _pad(x_btd, left, taps)
    beside_btk = jnp.concatenate([padded_bsd[:, i : i + num_frames] for i in range(taps)], axis=-1)
    return beside_btk @ kernel_kdf.reshape(taps * d, f) + bias_f[None, None, :]


def _pad(x_btd, left: int, taps: int):
    # One zero less than there are taps: the length stays.
    return jnp.pad(x_btd, ((0, 0), (left, taps - 1 - left), (0, 0)))
