"""Losses: pure functions of the network's outputs and the true tokens, each a sum over the batch.

`paraformer_loss` weighs them and divides by the number of tokens, or of utterances. To add one:

1. write the function in a file of its own, summing over the real positions; cut off padding with a `where` before
   anything is computed from it (`asr.ops.masks.length_mask` gives the mask);
2. add its weight to `LossConfig` in `config.py` and to `weigh` below, and its part to `paraformer_loss`;
3. add its name to `PARTS` in `tests/test_build_loss.py`: the common rules are then tested for it.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp

from asr.config import LossConfig
from asr.losses.ctc import ctc_loss
from asr.losses.mwer import mwer_loss
from asr.losses.seq_loss import masked_cross_entropy, quantity_loss


class Outputs(Protocol):
    """What the losses read of the network's training outputs."""

    logits_buv: jax.Array  # float32[b, u, v], second pass of the decoder
    token_count_b: jax.Array  # float32[b], sum of the predictor's weights
    frame_lengths_b: jax.Array  # int32[b], real frames of the encoder
    ctc_logits_btv: jax.Array | None  # float32[b, t, v], or None without a CTC head


def paraformer_loss(
    outputs: Outputs,
    tokens_bu: jax.Array,
    token_lengths_b: jax.Array,
    config: LossConfig,
    *,
    append_eos: bool,
    normalizer: jax.Array,
    num_utterances: jax.Array | None = None,
    key: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the loss that training minimises, and its parts.

        loss = (1 − w)·cross_entropy + w·ctc + quantity_weight·quantity + mwer_weight·mwer,    w = ctc_weight
        each part = its sum over the batch / normalizer, or / num_utterances where the config says so

    With the same divisors for all parts of a split batch, their losses add up to that of the whole batch.

    Args:
        outputs: of the network in training.
        tokens_bu: int32[b, u], true tokens.
        token_lengths_b: int32[b], real tokens; 0 for a filled-up row, which counts nowhere.
        config: the section `loss` of a config.
        append_eos: the last token of each row is the end of sentence. CTC leaves it out: no frame sounds like it.
        normalizer: float32 scalar > 0, tokens of the whole batch, usually.
        num_utterances: float32 scalar > 0, utterances of the whole batch; needed where `loss.normaliser` or
            `loss.ctc_normaliser` is "utterances".
        key: random key, for the hypotheses of the MWER loss; only they need it.

    Returns:
        float32 scalar, and float32 scalars "cross_entropy", "quantity" and, where their weights are not 0, "ctc" and
        "mwer", before weighting.

    Raises:
        ValueError: a weight asks for CTC without a CTC head, or for MWER without a key, or a part is divided by the
            utterances and their number is missing.
    """
    chex.assert_rank([tokens_bu, token_lengths_b, normalizer], [2, 1, 0])
    sums = {
        "cross_entropy": masked_cross_entropy(outputs.logits_buv, tokens_bu, token_lengths_b, config.label_smoothing),
        "quantity": quantity_loss(outputs.token_count_b, token_lengths_b),
    }
    if config.ctc_weight:
        if outputs.ctc_logits_btv is None:
            raise ValueError("loss.ctc_weight is not 0, but the network has no CTC head (model.ctc_head)")
        # No frame sounds like the end of sentence.
        spoken_lengths_b = jnp.maximum(token_lengths_b - int(append_eos), 0)
        sums["ctc"] = ctc_loss(outputs.ctc_logits_btv, outputs.frame_lengths_b, tokens_bu, spoken_lengths_b)
    if config.mwer_weight:
        if key is None:
            raise ValueError("loss.mwer_weight is not 0, so paraformer_loss needs a key")
        settings = {"num_candidates": config.mwer_candidates, "mask_share": config.mwer_mask_share}
        sums["mwer"] = mwer_loss(outputs.logits_buv, tokens_bu, token_lengths_b, key, **settings)
    if num_utterances is None and "utterances" in {divisor(name, config) for name in sums}:
        raise ValueError("loss.normaliser or loss.ctc_normaliser is utterances: paraformer_loss needs num_utterances")
    # Sums are divided once, by the counts of the whole batch: parts of a split batch add up.
    counts = {"tokens": normalizer, "utterances": num_utterances}
    parts = {name: total / counts[divisor(name, config)] for name, total in sums.items()}
    return weigh(parts, config), parts


def divisor(name: str, config: LossConfig) -> str:
    """Return what a part's sum over a batch is divided by: "tokens" or "utterances"."""
    return config.ctc_normaliser if name == "ctc" else config.normaliser


def weigh(parts: Mapping[str, Any], config: LossConfig) -> Any:
    """Return the loss: its parts, each times its weight, added up."""
    weights = {"cross_entropy": 1 - config.ctc_weight, "quantity": config.quantity_weight}
    weights |= {"ctc": config.ctc_weight, "mwer": config.mwer_weight, "custom": 1.0}
    return sum(weights[name] * part for name, part in parts.items())


__all__ = ["Outputs", "ctc_loss", "masked_cross_entropy", "mwer_loss", "paraformer_loss", "quantity_loss"]
