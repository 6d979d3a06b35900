"""BiCif-Paraformer: Paraformer with a second head of the predictor, for the times of the tokens.

Letters: b batch, t encoder frames, s = 3 · t steps.
"""

import jax
import jax.numpy as jnp

from asr.models.paraformer import Acoustics, Paraformer
from asr.models.timestamp_predictor import TimestampPredictor


class BicifParaformer(Paraformer):
    """The network; as `Paraformer`, and `time_weights` gives what the times are read from."""

    def setup(self):
        """Name the parts."""
        super().setup()
        self.timestamps = TimestampPredictor(self.config.timestamps)

    def __call__(self, features_bti, feature_lengths_b, tokens_bu, token_lengths_b, *, train: bool):
        """Return what `Paraformer` returns; the second head has no part in it."""
        if self.is_initializing():
            self.touch_parts(jnp.zeros((1, 1, self.config.encoder.width)), jnp.ones(1, jnp.int32))
        return super().__call__(features_bti, feature_lengths_b, tokens_bu, token_lengths_b, train=train)

    def touch_parts(self, x_11d, one_1) -> None:
        """Call what recognition needs beside `Paraformer`, with an example of one frame, so that it has parameters."""
        self.timestamps(x_11d, one_1)

    def time_weights(self, acoustics: Acoustics) -> jax.Array:
        """Return float32[b, s], the weights that `asr.decode.firing_times` integrates."""
        return self.timestamps(acoustics.hidden_btd, acoustics.frame_lengths_b)
