"""Exercise: integrate-and-fire without a loop, as the overlap of two intervals.

Let c[t] = alpha[0] + … + alpha[t], and c[−1] = 0. Frame t covers the interval [c[t−1], c[t]], token u covers
[u, u + 1]:

    alignment[u, t] = | [c[t−1], c[t]] ∩ [u, u+1] |

In training the number N of tokens is known, and the weights are scaled so that the sum ends at N:

    c[t] = N · S[t] / S[T],    S the running sum of the weights

Write both for a whole batch, with jax.numpy and without a loop. Equal weights for all real frames stand in for weights
that are all 0.
"""

import jax


def align(cumulative_bt: jax.Array, num_rows: int) -> jax.Array:
    """Return float32[b, num_rows, t], what each frame gives to each token.

    Args:
        cumulative_bt: float32[b, t], the running sum c, not falling.
        num_rows: tokens.
    """
    raise NotImplementedError


def scaled_cumulative(alpha_bt: jax.Array, valid_bt: jax.Array, num_tokens_b: jax.Array) -> jax.Array:
    """Return float32[b, t], the running sum c that ends at N.

    Args:
        alpha_bt: float32[b, t], weights of any scale, at least 0, 0 in padded frames.
        valid_bt: bool[b, t], True for real frames.
        num_tokens_b: int32[b], N.
    """
    raise NotImplementedError
