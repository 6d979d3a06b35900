"""FSMN-VAD: a small causal network that gives each frame a probability of silence.

    x = relu(widen(narrow_in(features)))                    no activation between the two
    p = project(x);  p[t] += Σ_i memory[i] · p[t − k + 1 + i];  x = relu(affine(p))      in each block, no residual
    logits = classify(narrow_out(x))                        the first class is silence

The memory looks back only, so the network can run over a sound in pieces of any lengths: it takes the last k − 1
projections of each block along.

Letters: b batch, t frames, i input width, d width of the memory, c classes, l blocks, k taps, j = k − 1 past frames.

Reference: Zhang et al., 2018 (deep FSMN), arXiv 1803.05030.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config.voice_activity import FsmnConfig
from asr.models.layers import Dense, depthwise_uniform
from asr.ops.conv import fsmn_memory


class FsmnBlock(nn.Module):
    """A projection, its memory of the past, and an affine map back: float[b, t, f] → float[b, t, width]."""

    width: int
    projection: int  # d
    taps: int  # k

    @nn.compact
    def __call__(self, x_btf, past_bjd):
        """Return (the block's output, float[b, j + t, d], the projections of the past and of these frames)."""
        p_btd = Dense(self.projection, use_bias=False, name="project")(x_btf)
        kernel_kd = self.param("memory_kernel", depthwise_uniform, (self.taps, self.projection), jnp.float32)
        # What came before this piece stands in front of it; before the start of the sound that is zeros.
        p_bsd = jnp.concatenate([past_bjd, p_btd], axis=1)
        memory_bsd = fsmn_memory(p_bsd, kernel_kd, jnp.ones(p_bsd.shape[:2], bool), left=self.taps - 1)
        return nn.relu(Dense(self.width, name="affine")(memory_bsd[:, self.taps - 1 :])), p_bsd


class FsmnVad(nn.Module):
    """The network."""

    config: FsmnConfig

    @nn.compact
    def __call__(self, features_bti, past_lbjd=None, num_frames=None):
        """Return (logits_btc, past_lbjd): the scores of the frames, and what the next piece of the sound needs.

        Args:
            features_bti: float32[b, t, i], normalised frames.
            past_lbjd: float32[l, b, j, d], as the call for the piece before returned it; None at the start of a sound.
            num_frames: int32[], real frames of these t, which the next piece follows; None: all.

        Returns:
            logits_btc: float32[b, t, c]; those behind `num_frames` mean nothing.
            past_lbjd: float32[l, b, j, d].
        """
        chex.assert_rank(features_bti, 3)
        config, (b, t, _) = self.config, features_bti.shape
        past_lbjd = empty_past(config, b) if past_lbjd is None else past_lbjd
        chex.assert_shape(past_lbjd, (config.num_layers, b, config.taps - 1, config.projection))
        num_frames = t if num_frames is None else num_frames
        x_btf = Dense(config.input_affine_width, name="narrow_in")(features_bti)
        x_btf = nn.relu(Dense(config.width, name="widen")(x_btf))
        past = []
        for number in range(config.num_layers):
            block = FsmnBlock(config.width, config.projection, config.taps, name=f"block{number}")
            x_btf, p_bsd = block(x_btf, past_lbjd[number])
            # The last k − 1 real frames: s starts k − 1 frames before t.
            past.append(jax.lax.dynamic_slice_in_dim(p_bsd, num_frames, config.taps - 1, axis=1))
        x_btf = Dense(config.output_affine_width, name="narrow_out")(x_btf)
        return Dense(config.num_classes, name="classify")(x_btf), jnp.stack(past)


def empty_past(config: FsmnConfig, batch_size: int = 1) -> jax.Array:
    """Return float32[l, b, j, d], the past of a sound at its start."""
    return jnp.zeros((config.num_layers, batch_size, config.taps - 1, config.projection), jnp.float32)


def fsmn_shapes(config: FsmnConfig, input_dim: int) -> Any:
    """Return the variables {"params": …} of the network as shapes and dtypes."""
    return jax.eval_shape(FsmnVad(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1, input_dim), jnp.float32))
