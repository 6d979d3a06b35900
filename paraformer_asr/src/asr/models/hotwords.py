"""Hot words inside a network: a vector for each phrase, and attention to these vectors.

Letters: b batch, c rows of phrases (b, or 1 for all utterances alike), u tokens of an utterance or of a phrase,
w phrases, d model width, a heads, e width of a head.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from asr.models.recurrent import Lstm
from asr.ops.attention import attention_weights

LOWEST = jnp.finfo(jnp.float32).min / 2  # finite: what is masked anyway must not become NaN


@struct.dataclass
class Hotwords:
    """The phrases that an utterance is compared with, as vectors; the first one stands for "no hot word".

    Attributes:
        vector_wd: float32, from `HotwordEncoder`.
        log_weight_w: float32, the log of how many times a phrase counts: 0 for once, −inf for padding.
        scale: float32, strength of the hot words, `inference.hotword_scale`.
    """

    vector_wd: jax.Array
    log_weight_w: jax.Array
    scale: jax.Array


class HotwordEncoder(nn.Module):
    """Embedded phrases float[w, u, d] → a vector each, float32[w, d]: the last state of the top memory."""

    num_layers: int

    @nn.compact
    def __call__(self, embedding_wud, lengths_w):
        """Return the vectors; phrases have `lengths_w` tokens, int32[w]."""
        chex.assert_rank([embedding_wud, lengths_w], [3, 1])
        state_wud, last_wd = embedding_wud, None
        for number in range(self.num_layers):
            state_wud, last_wd = Lstm(embedding_wud.shape[-1], name=f"layer{number}")(state_wud, lengths_w)
        return last_wd


def attend_to_hotwords(q_bud, kv_cwd, log_weight_cw, num_heads: int):
    """Return (weights_bauw, out_bud): how much each token attends to each phrase, and the mean of the phrases' values.

    Args:
        q_bud: float[b, u, d], queries.
        kv_cwd: float[c, w, 2 · d], keys and values side by side; c is b, or 1 for all utterances alike.
        log_weight_cw: float32[c, w], see `Hotwords`; −inf hides a phrase.
        num_heads: a.
    """
    chex.assert_rank([q_bud, kv_cwd, log_weight_cw], [3, 3, 2])
    (b, u, d), (c, w, _) = q_bud.shape, kv_cwd.shape
    chex.assert_shape(kv_cwd, ({1, b}, w, 2 * d))
    chex.assert_shape(log_weight_cw, (c, w))
    # One list for all utterances: their tokens are the queries of a single row, and keys are made once.
    q_cuae = q_bud.reshape(c, -1, num_heads, d // num_heads)
    k_cwae, v_cwae = (x.reshape(c, w, num_heads, -1) for x in jnp.split(kv_cwd, 2, axis=-1))
    is_real_c1w = (log_weight_cw > -jnp.inf)[:, None, :]
    weights_cauw = attention_weights(q_cuae, k_cwae, is_real_c1w, jnp.maximum(log_weight_cw, LOWEST))
    out_cuae = jnp.einsum("cauw,cwae->cuae", weights_cauw.astype(v_cwae.dtype), v_cwae)
    weights_bauw = weights_cauw.reshape(c, num_heads, b // c, u, w).swapaxes(1, 2).reshape(b, num_heads, u, w)
    return weights_bauw, out_cuae.reshape(b, u, d)
