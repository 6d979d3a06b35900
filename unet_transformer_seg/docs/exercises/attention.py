"""Scaled dot-product attention with several heads and a mask.

    out[s] = Σ_j softmax_j( q[s] · k[j] / √e ) v[j]        head by head

The softmax runs over the tokens j that the mask admits; the others have a weight of exactly 0. A token that may attend
to nothing gets 0, and no gradient is NaN.

Letters: b batch, s query tokens, j key and value tokens, a heads, e width of a head.
"""

import jax


def attention(q_bsae: jax.Array, k_bjae: jax.Array, v_bjae: jax.Array, mask_bsj: jax.Array | None = None) -> jax.Array:
    """Return, for each query token, the mean of the values weighted by how well their keys match.

    Args:
        q_bsae: float32[b, s, a, e], queries.
        k_bjae: float32[b, j, a, e], keys.
        v_bjae: float32[b, j, a, e], values.
        mask_bsj: bool[b, s, j], True where token s may attend to token j; None admits everything.

    Returns:
        out_bsae: float32[b, s, a, e].
    """
    raise NotImplementedError
