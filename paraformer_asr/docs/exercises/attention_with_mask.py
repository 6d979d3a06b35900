"""Exercise: scaled dot-product attention with several heads and a mask.

Each query takes the mean of the values, weighted by how well their keys match, head by head:

    out[t] = Σ_j softmax_j( q[t] · k[j] / √e ) v[j]

The softmax runs over the frames that the mask allows. A query that may attend to no frame gets 0.
"""

import jax


def attention(q_btae: jax.Array, k_bjae: jax.Array, v_bjae: jax.Array, mask_btj: jax.Array) -> jax.Array:
    """Return float32[b, t, a, e].

    Args:
        q_btae: float32[b, t, a, e], queries; a heads of width e.
        k_bjae: float32[b, j, a, e], keys.
        v_bjae: float32[b, j, a, e], values.
        mask_btj: bool[b, t, j], or bool[b, 1, j] for all queries alike; True where query t may attend to frame j.
    """
    raise NotImplementedError
