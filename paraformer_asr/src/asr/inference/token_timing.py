"""How the programs find the times of tokens: with a head of the network for that, or from the tokens' own frames."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from asr.config import Config, FeaturesConfig
from asr.data.text.tokenizer import FIRST_ID
from asr.decode import firing_times, token_times
from asr.models import Acoustics, Hypotheses
from asr.models.timestamp_predictor import STEPS_PER_FRAME
from asr.ops.masks import length_mask

TIMED_MODELS = ("seaco", "bicif")
"""Models with a second head of the predictor, for times."""


def make_find_times(config: Config, model: nn.Module) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Return `find_times(variables, acoustics, duration_s_b, hypotheses, ids_bu) → (start_s_bu, end_s_bu)`."""
    grid = time_grid(config.features)

    def from_frames(variables, acoustics: Acoustics, duration_s_b, hypotheses: Hypotheses, ids_bu):
        lengths = hypotheses.token_lengths_b, acoustics.frame_lengths_b
        return token_times(hypotheses.alignment_but, *lengths, duration_s_b, **grid)

    def from_head(variables: Any, acoustics: Acoustics, duration_s_b, hypotheses: Hypotheses, ids_bu):
        alpha_bs = model.apply(variables, acoustics, method="time_weights")
        spoken_bu = length_mask(hypotheses.token_lengths_b, ids_bu.shape[1]) & (ids_bu >= FIRST_ID)
        step_s = config.features.output_shift_ms / 1000 / STEPS_PER_FRAME
        return firing_times(alpha_bs, acoustics.frame_lengths_b * STEPS_PER_FRAME, spoken_bu, step_s=step_s)

    return from_head if config.model.name in TIMED_MODELS else from_frames


def time_grid(features: FeaturesConfig) -> dict[str, float]:
    """Return the times of the encoder's frames, as arguments of `asr.decode.token_times`."""
    return {"frame_shift_ms": features.output_shift_ms, "first_centre_ms": features.frame_length_ms / 2}
