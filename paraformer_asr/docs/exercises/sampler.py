"""Exercise: the glancing sampler, which decides how many true tokens the second pass is shown, and where.

For an utterance of N tokens of which the first pass got H right,

    n = ⌊(N − H) · ratio⌋

positions are drawn, all real ones alike, without repetition. There the embedding of the true token takes the place of
the acoustic embedding. Whether the first pass was right at a position does not matter for the draw.
"""


def glance(key, acoustic_bud, label_bud, predicted_bu, tokens_bu, lengths_b, *, ratio: float):
    """Return (mixed float[b, u, d], shown bool[b, u]): the embeddings of the second pass, and where labels are shown.

    Args:
        key: jax's random key.
        acoustic_bud: float[b, u, d], from integrate-and-fire.
        label_bud: float[b, u, d], embeddings of the true tokens.
        predicted_bu: int32[b, u], tokens of the first pass; behind the end of an utterance anything.
        tokens_bu: int32[b, u], the true tokens; behind the end anything.
        lengths_b: int32[b], N.
        ratio: 0 to 1.
    """
    raise NotImplementedError
