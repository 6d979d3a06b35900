"""The layer of long short-term memory.

Letters: b sequences, t steps, d width in, e width of the state.
"""

import flax.linen as nn
import jax.numpy as jnp

from asr.models.initialisers import fan_in_uniform
from asr.ops.lstm import lstm


class Lstm(nn.Module):
    """Long short-term memory in one direction: float[b, t, d] → float32 states.

    The two biases of the published form are kept apart, so that its tensors come back as they were.
    """

    width: int  # e
    backward: bool = False

    @nn.compact
    def __call__(self, x_btd, lengths_b):
        """Return (h_bte, last_be) as `asr.ops.lstm.lstm` does; it computes in float32."""
        gates = 4 * self.width
        input_kernel_dg = self.param("input_kernel", fan_in_uniform(), (x_btd.shape[-1], gates), jnp.float32)
        state_kernel_eg = self.param("state_kernel", fan_in_uniform(), (self.width, gates), jnp.float32)
        bias_g = self.param("input_bias", nn.initializers.zeros, (gates,), jnp.float32)
        bias_g = bias_g + self.param("state_bias", nn.initializers.zeros, (gates,), jnp.float32)
        x_btd = x_btd.astype(jnp.float32)
        return lstm(x_btd, lengths_b, input_kernel_dg, state_kernel_eg, bias_g, backward=self.backward)
