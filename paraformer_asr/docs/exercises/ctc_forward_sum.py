"""Exercise: the CTC loss of one utterance, by the forward sum.

Every frame is given a token or the blank, with the probability q[t, ·], the softmax of its logits. An alignment spells
the tokens y if leaving out repetitions, and then blanks, leaves y. The loss is −log of the probability of all such
alignments. For all beginnings that have spelled u tokens, keep the sum of those that end on token u, and of those that
end on a blank. Before the first frame blank[0] = 1, and all else is 0:

    token'[u] = q[t, y_u]   · ( token[u] + blank[u−1] + token[u−1] )       the last term only if y_u ≠ y_{u−1}
    blank'[u] = q[t, blank] · ( blank[u] + token[u] )

with u counted from 1 and token[0] = 0. Compute with logarithms: the sums of a long utterance are too small for float32.
"""

import jax


def ctc_loss(logits_tv: jax.Array, tokens_u: jax.Array, blank: int = 0) -> jax.Array:
    """Return float32[], −log of the probability that the frames spell the tokens.

    Args:
        logits_tv: float32[t, v], not normalised; enough frames for the tokens, and for a blank between equal ones.
        tokens_u: int32[u], not the blank; perhaps none.
        blank: the blank's token.
    """
    raise NotImplementedError
