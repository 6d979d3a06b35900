"""The blocks that an encoder is made of: SAN-M, Conformer, and convolution alone.

Each maps float[b, t, d] to the same shape, is pre-norm, and keeps padded frames from reaching real ones.

Letters: b batch, t frames, j frames attended to, d model width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config import EncoderConfig
from asr.models.layers import Attend, Dense, Dropout, FeedForward, FsmnMemory, LayerNorm, depthwise_uniform, left_taps
from asr.ops import conv
from asr.ops.norm import EPSILON


class SanmBlock(nn.Module):
    """Self-attention with a sequential memory, then a feed-forward network.

        y = norm1(x)
        q, k, v = split(W · y)
        x = x + dropout(W_out · attention(q, k, v) + memory(v))
        x = x + dropout(FFN(norm2(x)))

    The memory is added after the output projection. Where the block changes the width (the first one of the encoder)
    the first line of sums has no `x +`.

    Reference: Gao et al., 2020, "SAN-M: Memory equipped self-attention for end-to-end speech recognition", section 2.3.
    """

    config: EncoderConfig
    epsilon: float = EPSILON  # of the layer norms

    @nn.compact
    def __call__(self, x_bti, valid_bt, mask_btj, train: bool, chunks=None):
        """Return float[b, t, d] of float[b, t, i], where the input may be wider.

        `chunks`, an `EncoderChunks`, puts the keys of earlier chunks in front; the mask covers them, too.
        """
        config, residual = self.config, x_bti
        # Pre-norm: what is added is normalised, the sum is not, so gradients reach the first block unscaled.
        qkv_btd = Dense(3 * config.width, name="qkv")(LayerNorm(self.epsilon, name="norm1")(x_bti))
        q_btd, k_btd, v_btd = jnp.split(qkv_btd, 3, axis=-1)
        k_bjd, v_bjd = chunks.extend(k_btd, v_btd) if chunks else (k_btd, v_btd)
        attended_btd = Attend(config.num_heads, config.attention_dropout, config.attention)(
            q_btd, k_bjd, v_bjd, mask_btj, train
        )
        # Attention finds what is far away; the memory, a filter over time, knows what is near and in which order.
        memory_btd = FsmnMemory(config.kernel_size, config.dropout, config.causal, name="memory")(
            v_btd, valid_bt, train
        )
        x_btd = Dropout(config.dropout)(Dense(config.width, name="out")(attended_btd) + memory_btd, train)
        # The first block widens the frames, so its input cannot be added.
        x_btd = residual + x_btd if residual.shape == x_btd.shape else x_btd
        ffn = FeedForward(config.ffn_width, config.width, config.dropout, name="ffn")
        return x_btd + Dropout(config.dropout)(ffn(LayerNorm(self.epsilon, name="norm2")(x_btd), train), train)


class ConformerBlock(nn.Module):
    """Half a feed-forward network, self-attention, a convolution, and the other half.

        x = x + ½ dropout(FFN(norm(x)))
        x = x + dropout(attention(norm(x)))
        x = x + dropout(convolution(norm(x)))
        x = norm(x + ½ dropout(FFN(norm(x))))

    Positions are those that the encoder adds to its input (no relative positions).

    Reference: Gulati et al., 2020, section 2.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x_btd, valid_bt, mask_btj, train: bool):
        """Return float[b, t, d]."""
        config = self.config

        # Half a feed-forward network on either side of the rest ("Macaron"), instead of a whole one behind it.
        def half_step(x_btd, name):
            ffn = FeedForward(config.ffn_width, config.width, config.dropout, "swish", name=f"{name}_ffn")
            branch_btd = ffn(LayerNorm(name=f"{name}_norm")(x_btd), train)
            return x_btd + 0.5 * Dropout(config.dropout)(branch_btd, train)

        x_btd = half_step(x_btd, "first")
        qkv_btd = Dense(3 * config.width, name="qkv")(LayerNorm(name="attention_norm")(x_btd))
        attend = Attend(config.num_heads, config.attention_dropout, config.attention)
        attended_btd = Dense(config.width, name="out")(attend(*jnp.split(qkv_btd, 3, axis=-1), mask_btj, train))
        x_btd = x_btd + Dropout(config.dropout)(attended_btd, train)
        # After attention, which is global, the convolution looks at neighbours.
        x_btd = x_btd + ConvolutionModule(config, name="convolution")(x_btd, valid_bt, train)
        # The block ends normalised, as published, although the next one begins with a norm of its own.
        return LayerNorm(name="last_norm")(half_step(x_btd, "second"))


class ConvBlock(nn.Module):
    """A convolution and a feed-forward network, without attention.

        x = x + dropout(convolution(norm(x)))
        x = x + dropout(FFN(norm(x)))

    A stack of l blocks sees l · (kernel_size − 1) neighbours of a frame. On a few hours of speech it learns faster than
    attention, which has to discover that neighbours matter.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x_btd, valid_bt, mask_btj, train: bool):
        """Return float[b, t, d]; the mask is not needed."""
        config = self.config
        x_btd = x_btd + ConvolutionModule(config, name="convolution")(x_btd, valid_bt, train)
        ffn = FeedForward(config.ffn_width, config.width, config.dropout, "swish", name="ffn")
        return x_btd + Dropout(config.dropout)(ffn(LayerNorm(name="norm")(x_btd), train), train)


class ConvolutionModule(nn.Module):
    """The gated depthwise convolution of the Conformer: float[b, t, d] → the same shape.

        value, gate = split(W · norm(x))
        y = W_out · swish(norm(depthwise(value · sigmoid(gate))))

    A layer norm stands where the paper has a batch norm: an utterance then gives the same answer in any batch, and
    there are no running statistics.

    Reference: Gulati et al., 2020, section 2.2.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x_btd, valid_bt, train: bool):
        """Return the branch that the block adds, dropout applied."""
        config, width = self.config, x_btd.shape[-1]
        value_btd, gate_btd = jnp.split(Dense(2 * width, name="expand")(LayerNorm(name="norm")(x_btd)), 2, axis=-1)
        # A gate for each channel and frame; padding is cut off, or the kernel would carry it into real frames.
        gated_btd = jnp.where(valid_bt[..., None], value_btd * jax.nn.sigmoid(gate_btd), 0)
        kernel_kd = self.param("kernel", depthwise_uniform, (config.kernel_size, width), jnp.float32)
        taps = left_taps(config.kernel_size, config.causal)
        # Over time, each channel by itself; the maps before and after mix the channels.
        mixed_btd = conv.depthwise_conv1d(gated_btd, kernel_kd.astype(x_btd.dtype), left=taps)
        y_btd = Dense(width, name="contract")(nn.swish(LayerNorm(name="inner_norm")(mixed_btd)))
        return Dropout(config.dropout)(y_btd, train)


BLOCKS = {"sanm": SanmBlock, "conformer": ConformerBlock, "conv": ConvBlock}
"""Block of each `model.encoder.kind`."""
