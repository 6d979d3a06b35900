"""BiCif-Paraformer: Paraformer with a second head of the predictor, for the times of the tokens.

Letters: b batch, t encoder frames, s = 3 · t steps.
"""

import jax

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
            self.time_weights(self.encode(features_bti, feature_lengths_b))
        return super().__call__(features_bti, feature_lengths_b, tokens_bu, token_lengths_b, train=train)

    def time_weights(self, acoustics: Acoustics) -> jax.Array:
        """Return float32[b, s], the weights that `asr.decode.firing_times` integrates."""
        return self.timestamps(acoustics.hidden_btd, acoustics.frame_lengths_b)
