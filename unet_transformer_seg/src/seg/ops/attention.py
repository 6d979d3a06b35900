"""Scaled dot-product attention with several heads.

Letters: b batch, s query tokens, j key and value tokens, a heads, e width of a head.
"""

import functools
import importlib.util
import warnings

import chex
import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("implementation",))
def attention(q_bsae, k_bjae, v_bjae, mask_bsj=None, *, implementation: str = "explicit"):
    """Return, for each query token, the mean of the value vectors weighted by how well their keys match.

    out[s] = Σ_j softmax_j(q[s] · k[j] / √e) v[j], head by head

    Args:
        q_bsae: float[b, s, a, e], queries.
        k_bjae: float[b, j, a, e], keys.
        v_bjae: float[b, j, a, e], values.
        mask_bsj: bool[b, s, j], True where token s may attend to token j; None masks nothing. A token with no key to
            attend to gets 0.
        implementation: "explicit" (the equation above, term by term), "xla" (`jax.nn.dot_product_attention`) or
            "cudnn" (its fused GPU kernel, which never stores the s × j weights). All give the same result up to
            rounding. "cudnn" is "explicit" in a program for any other platform, and, with a RuntimeWarning, where the
            kernel does not support the shapes or dtype.

    Returns:
        out_bsae: float[b, s, a, e], the dtype of `v`. The softmax is computed in float32.

    Reference: Vaswani et al., 2017, equation 1.
    """
    _check_heads(q_bsae, k_bjae, mask_bsj)
    chex.assert_equal_shape([k_bjae, v_bjae])
    chex.assert_type([v_bjae], float)
    qkv = q_bsae, k_bjae, v_bjae
    # The kernel raises where it cannot run: look before, and fall back with a warning.
    if implementation == "cudnn" and (obstacle := _cudnn_obstacle(q_bsae, k_bjae, mask_bsj)):
        warnings.warn(f"attention: cudnn {obstacle}; the explicit form is used instead", RuntimeWarning, stacklevel=2)
        implementation = "explicit"
    match implementation:
        case "explicit":
            return _explicit_attention(*qkv, mask_bsj)
        case "xla":
            return _fused_attention(*qkv, mask_bsj, "xla")
        case "cudnn":
            explicit = functools.partial(_explicit_attention, mask_bsj=mask_bsj)
            fused = functools.partial(_fused_attention, mask_bsj=mask_bsj, implementation="cudnn")
            # Decided when the program is lowered: the same trace serves every platform.
            return jax.lax.platform_dependent(*qkv, cuda=fused, default=explicit)
        case name:
            raise ValueError(f"attention: expected explicit, xla or cudnn, found {name!r}")


def _explicit_attention(q_bsae, k_bjae, v_bjae, mask_bsj):
    weights_basj = attention_weights(q_bsae, k_bjae, mask_bsj)
    # The shares in the dtype of the values, so that the product runs at its speed.
    return jnp.einsum("basj,bjae->bsae", weights_basj.astype(v_bjae.dtype), v_bjae)


@jax.jit
def attention_weights(q_bsae, k_bjae, mask_bsj=None):
    """Return how much each token attends to each other one: softmax_j(q · k / √e).

    Args:
        q_bsae: float[b, s, a, e], queries.
        k_bjae: float[b, j, a, e], keys.
        mask_bsj: bool[b, s, j], True where token s may attend to token j, or None.

    Returns:
        weights_basj: float32[b, a, s, j], in 0…1, exactly 0 where the mask is False. A row sums to 1, or to 0 where
        all of it is masked.
    """
    _check_heads(q_bsae, k_bjae, mask_bsj)
    # A sum of e products has the variance e. The scale brings it back to 1, so that the softmax does not saturate.
    scale = q_bsae.shape[-1] ** -0.5
    # In float32 also for bfloat16 heads: the exponential multiplies rounding errors of large scores.
    scores_basj = scale * jnp.einsum("bsae,bjae->basj", q_bsae, k_bjae, preferred_element_type=jnp.float32)
    if mask_bsj is None:
        return jax.nn.softmax(scores_basj)
    mask_b1sj = mask_bsj[:, None]
    # Finite, as a row of −inf alone would give NaN. The outer select then makes such a row 0.
    lowest = jnp.finfo(jnp.float32).min
    return jnp.where(mask_b1sj, jax.nn.softmax(jnp.where(mask_b1sj, scores_basj, lowest)), 0.0)


def _cudnn_obstacle(q_bsae, k_bjae, mask_bsj) -> str | None:
    """Return why the cudnn kernel cannot run, or None. It raises instead of falling back, so this is known before."""
    if not has_cudnn():
        return "needs jax's packages for NVIDIA GPUs, not installed here (pip install 'jax[cuda13]')"
    if q_bsae.dtype not in (jnp.bfloat16, jnp.float16):
        return f"needs bfloat16 or float16, the heads are {q_bsae.dtype}"
    (_, s, _, e), j = q_bsae.shape, k_bjae.shape[1]
    hopper = float(getattr(jax.devices()[0], "compute_capability", "0")) >= 9.0
    widest = 256 if hopper else 128
    if e % 8 or e > widest:
        return f"needs a head width that is a multiple of 8 and at most {widest}, found {e}"
    if mask_bsj is not None and (s % 2 or j % 2):
        return f"needs even numbers of tokens where there is a mask, found {s} and {j}"
    return None


def has_cudnn() -> bool:
    """Return whether jax can trace the cudnn kernel: it needs its packages for NVIDIA GPUs, even without a GPU."""
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def _fused_attention(q_bsae, k_bjae, v_bjae, mask_bsj, implementation: str):
    if mask_bsj is None:
        return jax.nn.dot_product_attention(q_bsae, k_bjae, v_bjae, implementation=implementation)
    out_bsae = jax.nn.dot_product_attention(
        q_bsae, k_bjae, v_bjae, mask=mask_bsj[:, None], implementation=implementation
    )
    attends_bs11 = mask_bsj.any(-1)[:, :, None, None]  # jax averages all values where nothing may be attended to
    return jnp.where(attends_bs11, out_bsae, 0.0)


def _check_heads(q_bsae, k_bjae, mask_bsj):
    chex.assert_rank([q_bsae, k_bjae], 4)
    chex.assert_type([q_bsae, k_bjae], float)
    (b, s, a, e), j = q_bsae.shape, k_bjae.shape[1]
    chex.assert_shape(k_bjae, (b, j, a, e))
    if mask_bsj is not None:
        chex.assert_shape(mask_bsj, (b, s, j))
        chex.assert_type(mask_bsj, bool)
