"""Scaled dot-product attention with several heads.

Letters: b batch, t queries (frames or tokens), j key and value frames, a heads, e width of a head.
"""

import functools
import importlib.util
import warnings

import chex
import jax
import jax.numpy as jnp

from asr.ops.dropout import dropout


@functools.partial(jax.jit, static_argnames=("implementation", "dropout_rate"))
def attention(
    q_btae, k_bjae, v_bjae, mask_btj, *, implementation: str = "explicit", dropout_rate: float = 0.0, dropout_key=None
):
    """Return, for each query, the mean of the value vectors weighted by how well their keys match.

    out[t] = Σ_j softmax_j(q[t] · k[j] / √e) v[j], head by head

    Args:
        q_btae: float[b, t, a, e], queries.
        k_bjae: float[b, j, a, e], keys.
        v_bjae: float[b, j, a, e], values.
        mask_btj: bool[b, t, j], or bool[b, 1, j] for all queries alike; True where query t may attend to frame j. A
            query with no frame to attend to gets 0.
        implementation: "explicit" (the equation above, term by term), "xla" (`jax.nn.dot_product_attention`) or
            "cudnn" (its fused GPU kernel, which never stores the t × j weights). All give the same result up to
            rounding. "cudnn" is "explicit" in a program for any other platform, and, with a RuntimeWarning, where the
            kernel does not support the shapes or dtype.
        dropout_rate: of the weights; the explicit form only.
        dropout_key: random key; None in inference.

    Returns:
        out_btae: float[b, t, a, e], the dtype of `v`. The softmax is computed in float32.

    Raises:
        ValueError: an unknown implementation, or dropout with another than the explicit one.

    Reference: Vaswani et al., 2017, equation 1.
    """
    _check_heads(q_btae, k_bjae, mask_btj)
    chex.assert_equal_shape([k_bjae, v_bjae])
    chex.assert_type([v_bjae], float)
    if dropout_rate > 0 and dropout_key is not None and implementation != "explicit":
        raise ValueError(f"attention: dropout of the weights needs the explicit form, not {implementation!r}")
    qkv = q_btae, k_bjae, v_bjae
    explicit = functools.partial(_explicit_attention, mask_btj=mask_btj, rate=dropout_rate, key=dropout_key)
    if implementation == "cudnn" and (obstacle := _cudnn_obstacle(q_btae, k_bjae)):
        warnings.warn(f"attention: cudnn {obstacle}; the explicit form is used instead", RuntimeWarning, stacklevel=2)
        implementation = "explicit"
    match implementation:
        case "explicit":
            return explicit(*qkv)
        case "xla":
            return _fused_attention(*qkv, mask_btj, "xla")
        case "cudnn":
            fused = functools.partial(_fused_attention, mask_btj=mask_btj, implementation="cudnn")
            # Decided when the program is lowered: the same trace serves every platform.
            return jax.lax.platform_dependent(*qkv, cuda=fused, default=explicit)
        case name:
            raise ValueError(f"attention: expected explicit, xla or cudnn, found {name!r}")


def _explicit_attention(q_btae, k_bjae, v_bjae, mask_btj, rate: float = 0.0, key=None):
    weights_batj = attention_weights(q_btae, k_bjae, mask_btj)
    # In training a query must not rely on single frames.
    if rate > 0 and key is not None:
        weights_batj = dropout(weights_batj, key, rate)
    out_bate = jnp.einsum("batj,baje->bate", weights_batj.astype(v_bjae.dtype), _heads_first(v_bjae))
    return out_bate.transpose(0, 2, 1, 3)


@jax.jit
def attention_weights(q_btae, k_bjae, mask_btj, log_weight_bj=None):
    """Return how much each query attends to each frame: softmax_j(q · k / √e + log_weight).

    Args:
        q_btae: float[b, t, a, e], queries.
        k_bjae: float[b, j, a, e], keys.
        mask_btj: bool[b, t, j] or bool[b, 1, j], True where query t may attend to frame j.
        log_weight_bj: float32[b, j], the log of how many times a frame counts; None: each once.

    Returns:
        weights_batj: float32[b, a, t, j], in 0…1, exactly 0 where the mask is False. A row sums to 1, or to 0 where
        all of it is masked.
    """
    _check_heads(q_btae, k_bjae, mask_btj)
    # 1/√e keeps the variance of a score at 1; applied to the queries, which are fewer than the scores.
    scaled_btae = q_btae * q_btae.shape[-1] ** -0.5
    heads = _heads_first(scaled_btae), _heads_first(k_bjae)
    # Scores and softmax in float32: bfloat16 would round a sum over hundreds of frames.
    scores_batj = jnp.einsum("bate,baje->batj", *heads, preferred_element_type=jnp.float32)
    if log_weight_bj is not None:
        scores_batj = scores_batj + log_weight_bj[:, None, None, :]
    mask_b1tj = mask_btj[:, None]
    lowest = jnp.finfo(jnp.float32).min  # finite: a row of −inf alone would give NaN
    return jnp.where(mask_b1tj, jax.nn.softmax(jnp.where(mask_b1tj, scores_batj, lowest)), 0.0)


def padding_mask(valid_bj):
    """Return bool[b, 1, j]: every query may attend to every real frame (True in `valid_bj`)."""
    chex.assert_rank(valid_bj, 2)
    return valid_bj[:, None, :]


def causal_mask(valid_bt):
    """Return bool[b, t, j]: frame t may attend to the real frames j ≤ t (True in `valid_bt`)."""
    chex.assert_rank(valid_bt, 2)
    # Later frames are hidden: the answer for a frame does not change when sound follows.
    frame_t = jnp.arange(valid_bt.shape[1])
    return valid_bt[:, None, :] & (frame_t[None, None, :] <= frame_t[None, :, None])


def _cudnn_obstacle(q_btae, k_bjae) -> str | None:
    """Return why the cudnn kernel cannot run, or None. It raises instead of falling back, so this is known before."""
    if not has_cudnn():
        return "needs jax's packages for NVIDIA GPUs, not installed here (pip install 'jax[cuda13]')"
    if q_btae.dtype not in (jnp.bfloat16, jnp.float16):
        return f"needs bfloat16 or float16, the heads are {q_btae.dtype}"
    (_, t, _, e), j = q_btae.shape, k_bjae.shape[1]
    hopper = float(getattr(jax.devices()[0], "compute_capability", "0")) >= 9.0
    widest = 256 if hopper else 128
    if e % 8 or e > widest:
        return f"needs a head width that is a multiple of 8 and at most {widest}, found {e}"
    if t % 2 or j % 2:
        return f"needs even numbers of queries and frames where there is a mask, found {t} and {j}"
    return None


def has_cudnn() -> bool:
    """Return whether jax can trace the cudnn kernel: it needs its packages for NVIDIA GPUs, even without a GPU."""
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def _fused_attention(q_btae, k_bjae, v_bjae, mask_btj, implementation: str):
    b, t, j = q_btae.shape[0], q_btae.shape[1], k_bjae.shape[1]
    # The kernels take a mask of full size, one for all heads.
    mask_btj = jnp.broadcast_to(mask_btj, (b, t, j))
    out_btae = jax.nn.dot_product_attention(
        q_btae, k_bjae, v_bjae, mask=mask_btj[:, None], implementation=implementation
    )
    attends_bt11 = mask_btj.any(-1)[:, :, None, None]  # jax averages all values where nothing may be attended to
    return jnp.where(attends_bt11, out_btae, 0.0)


def _heads_first(x_btae):
    """Return float[b, a, t, e], a copy.

    With it the attention of 167 frames takes 0.8 ms on a CPU core, and 1.0 with the compiler's own choice.
    """
    return x_btae.transpose(0, 2, 1, 3)


def _check_heads(q_btae, k_bjae, mask_btj):
    chex.assert_rank([q_btae, k_bjae], 4)
    chex.assert_type([q_btae, k_bjae], float)
    (b, t, a, e), j = q_btae.shape, k_bjae.shape[1]
    chex.assert_shape(k_bjae, (b, j, a, e))
    chex.assert_shape(mask_btj, (b, {1, t}, j))
    chex.assert_type(mask_btj, bool)
