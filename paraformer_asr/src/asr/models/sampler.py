"""The glancing sampler: in training, some acoustic embeddings are replaced by those of the true tokens.

Letters: b batch, u tokens, d model width.
"""

import jax
import jax.numpy as jnp


def glance(key, acoustic_bud, label_bud, predicted_bu, tokens_bu, lengths_b, *, ratio: float):
    """Return the embeddings of the second pass: mostly acoustic where the first pass did well.

    For an utterance of N tokens of which the first pass got H right, n = ⌊(N − H) · ratio⌋ true tokens are shown, at n
    random positions. Early in training many labels are shown; a perfect model sees none, as at inference.

    Args:
        key: random key.
        acoustic_bud: float[b, u, d], from integrate-and-fire.
        label_bud: float[b, u, d], learned embeddings of the true tokens.
        predicted_bu: int32[b, u], tokens of the first pass.
        tokens_bu: int32[b, u], the true tokens.
        lengths_b: int32[b], N.
        ratio: 0 to 1.

    Returns:
        mixed_bud: float[b, u, d]; shown_bu: bool[b, u], True where the label was taken.

    Reference: Qian et al., 2021 (GLAT); Gao et al., 2022, section 2.3.
    """
    position_u = jnp.arange(tokens_bu.shape[1])[None, :]
    valid_bu = position_u < lengths_b[:, None]
    num_right_b = jnp.sum((predicted_bu == tokens_bu) & valid_bu, axis=1)
    num_shown_b = jnp.floor((lengths_b - num_right_b) * ratio).astype(jnp.int32)
    draw_bu = jnp.where(valid_bu, jax.random.uniform(key, tokens_bu.shape), 2.0)  # padding ranks last
    # The rank of each position in a random order: those ranked below n are n positions without repetition.
    rank_bu = jnp.argsort(jnp.argsort(draw_bu, axis=1), axis=1)
    shown_bu = valid_bu & (rank_bu < num_shown_b[:, None])
    return jnp.where(shown_bu[..., None], label_bud.astype(acoustic_bud.dtype), acoustic_bud), shown_bu
