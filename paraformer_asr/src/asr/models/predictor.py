"""The predictor: how much of a token each frame holds.

Letters: b batch, t frames, d model width, k taps.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config import PredictorConfig
from asr.models.initialisers import constant, fan_in_uniform
from asr.models.layers import Dropout, depthwise_uniform
from asr.ops import conv


class Predictor(nn.Module):
    """float[b, t, d] → alpha float32[b, t, 1], the weights that integrate-and-fire sums.

        conv:       h = relu(conv(hidden))                          (CIF V2)
        depthwise:  h = relu(dropout(depthwise(hidden) + hidden))    (CIF V1)
        alpha = relu(sigmoid(w · h + b) · smooth_factor − noise_threshold), 0 in padded frames

    All of it is float32, whatever the encoder's compute dtype: over a long utterance the sum must be exact to a small
    part of a token.

    Reference: Gao et al., 2022, section 2.2; the two forms are `CifPredictorV2` and `CifPredictor` of FunASR.
    """

    config: PredictorConfig

    @nn.compact
    def __call__(self, hidden_btd, valid_bt, *, train: bool):
        """Return the weights.

        Args:
            hidden_btd: float[b, t, d], the encoder's output, 0 in padded frames: the convolution looks beyond the end.
            valid_bt: bool[b, t], True for real frames.
            train: apply dropout (key `dropout`).
        """
        config, hidden_btd = self.config, hidden_btd.astype(jnp.float32)
        # Neighbours matter: a token ends where the sound changes.
        h_btd = nn.relu(self._convolve(hidden_btd, train))
        kernel_d1 = self.param("kernel", fan_in_uniform(), (h_btd.shape[-1], 1), jnp.float32)
        bias_1 = self.param("bias", constant(config.initial_bias), (1,), jnp.float32)
        # A frame adds at most `smooth_factor` tokens; the threshold silences frames that add next to nothing.
        weight_bt1 = jax.nn.sigmoid(h_btd @ kernel_d1 + bias_1[None, None, :])
        alpha_bt1 = nn.relu(weight_bt1 * config.smooth_factor - config.noise_threshold)
        return jnp.where(valid_bt[..., None], alpha_bt1, 0.0)

    def _convolve(self, hidden_btd, train: bool):
        config, d = self.config, hidden_btd.shape[-1]
        taps = config.left_frames + 1 + config.right_frames
        bias_d = self.param("conv_bias", nn.initializers.zeros, (d,), jnp.float32)
        if config.kind == "conv":
            kernel_kdd = self.param("conv_kernel", fan_in_uniform(2.0), (taps, d, d), jnp.float32)
            return conv.conv1d(hidden_btd, kernel_kdd, bias_d, left=config.left_frames)
        # CIF V1: each channel by itself, and the frame itself beside what its neighbours say.
        kernel_kd = self.param("conv_kernel", depthwise_uniform, (taps, d), jnp.float32)
        mixed_btd = conv.depthwise_conv1d(hidden_btd, kernel_kd, left=config.left_frames) + bias_d[None, None, :]
        return Dropout(config.dropout)(mixed_btd + hidden_btd, train)
