"""The second head of the predictor: how much of a token each third of a frame holds, for the times of the tokens.

Letters: b batch, t frames, s = 3 · t steps, d model width, f width of a result, k steps in a frame.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config import TimestampsConfig
from asr.models.initialisers import fan_in_uniform
from asr.models.recurrent import Lstm
from asr.ops.masks import length_mask

STEPS_PER_FRAME = 3


class TimestampPredictor(nn.Module):
    """float[b, t, d] → alpha float32[b, 3 · t], weights of which a token collects about 1.

        y[3t + k] = W_k · hidden[t] + bias                       (transposed convolution, stride 3)
        alpha = relu(sigmoid(w · [forward(y); backward(y)] + b) · smooth_factor − noise_threshold)

    `forward` and `backward` are long short-term memories over the real steps, the second one from the true end. The
    weights are 0 in padding. All of it is float32.

    Reference: Shi et al., 2023, "Achieving timestamp prediction while recognizing with non-autoregressive end-to-end
    ASR model", section 3; `CifPredictorV3` of FunASR.
    """

    config: TimestampsConfig

    @nn.compact
    def __call__(self, hidden_btd, frame_lengths_b):
        """Return the weights.

        Args:
            hidden_btd: float[b, t, d], the encoder's output.
            frame_lengths_b: int32[b], real frames.
        """
        chex.assert_rank([hidden_btd, frame_lengths_b], [3, 1])
        config, (b, t, d) = self.config, hidden_btd.shape
        kernel_kdf = self.param("conv_kernel", fan_in_uniform(), (STEPS_PER_FRAME, d, d), jnp.float32)
        bias_f = self.param("conv_bias", nn.initializers.zeros, (d,), jnp.float32)
        # Three vectors of each frame, 20 ms apart: as wide as the stride, the kernel overlaps no neighbour.
        y_btkf = jnp.einsum("btd,kdf->btkf", hidden_btd.astype(jnp.float32), kernel_kdf)
        y_bsf = y_btkf.reshape(b, t * STEPS_PER_FRAME, d) + bias_f[None, None, :]
        step_lengths_b = frame_lengths_b * STEPS_PER_FRAME
        ahead_bsf, _ = Lstm(d, name="forward")(y_bsf, step_lengths_b)
        back_bsf, _ = Lstm(d, backward=True, name="backward")(y_bsf, step_lengths_b)
        kernel_f1 = self.param("output_kernel", fan_in_uniform(), (2 * d, 1), jnp.float32)
        bias_1 = self.param("output_bias", nn.initializers.zeros, (1,), jnp.float32)
        weight_bs1 = jax.nn.sigmoid(jnp.concatenate([ahead_bsf, back_bsf], axis=-1) @ kernel_f1 + bias_1[None, None, :])
        alpha_bs = nn.relu(weight_bs1 * config.smooth_factor - config.noise_threshold)[..., 0]
        return jnp.where(length_mask(step_lengths_b, t * STEPS_PER_FRAME), alpha_bs, 0.0)
