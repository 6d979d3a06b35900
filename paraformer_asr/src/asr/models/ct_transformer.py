"""CT-Transformer: which sign follows each word of a text.

    x = embedding · √d + positions
    x = block(x), num_layers times
    logits = W · norm(x)

The blocks are the SAN-M blocks of the recogniser's encoder. The encoder itself has one mask for all layers; the
streaming form of this network has two.

Reference: Chen et al., 2020, "Controllable time-delay transformer for real-time punctuation prediction and disfluency
detection".

Letters: b batch, t words, j words attended to, d model width, e embedding width, c classes of signs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config import EncoderConfig
from asr.config.punctuation import PunctuationConfig
from asr.contracts import assert_shape
from asr.models.blocks import SanmBlock
from asr.models.layers import LayerNorm, Logits
from asr.ops.attention import causal_mask, padding_mask
from asr.ops.masks import length_mask
from asr.ops.position import sinusoid


class CTTransformer(nn.Module):
    """int32[b, t] → float32[b, t, c], the scores of the signs behind each word."""

    config: PunctuationConfig

    @nn.compact
    def __call__(self, words_bt, lengths_b, num_old_b):
        """Return the scores.

        Args:
            words_bt: int32[b, t], numbers of the words; what is behind the end changes nothing.
            lengths_b: int32[b], words of each text.
            num_old_b: int32[b], the first words of each text that were there before the rest arrived; 0: none.
                Without effect unless `config.streaming`.
        """
        config, encoder = self.config, self.config.encoder
        sizes = assert_shape(words_bt, "B,T", "words")
        assert_shape(lengths_b, "B", "lengths", **sizes)
        assert_shape(num_old_b, "B", "num_old", **sizes)
        table_ve = self.param("embedding", nn.initializers.normal(), (config.vocab_size, config.embedding_width))
        valid_bt = length_mask(lengths_b, words_bt.shape[1])
        x_bte = table_ve[words_bt] * encoder.width**0.5 + sinusoid(words_bt.shape[1], config.embedding_width)[None]
        x_btd = SanmStack(encoder, config.streaming, name="encoder")(x_bte, valid_bt, num_old_b)
        return Logits(len(config.signs), name="output")(x_btd)


class SanmStack(nn.Module):
    """SAN-M blocks and a layer norm: float32[b, t, e] → float32[b, t, d]. It has no training form."""

    config: EncoderConfig  # sizes
    streaming: bool  # two masks instead of one

    @nn.compact
    def __call__(self, x_bte, valid_bt, num_old_b):
        """Return the vector of each word."""
        x_btd, last = x_bte, self.config.num_layers - 1
        for number in range(self.config.num_layers):
            mask_btj = padding_mask(valid_bt)
            if self.streaming:
                # Only the last layer looks ahead: what the layers below computed for old words stays as it was.
                mask_btj = old_words_mask(valid_bt, num_old_b) if number == last > 0 else causal_mask(valid_bt)
            x_btd = SanmBlock(self.config, name=f"block{number}")(x_btd, valid_bt, mask_btj, train=False)
        return LayerNorm(name="norm")(x_btd)


def old_words_mask(valid_bj: jax.Array, num_old_b: jax.Array) -> jax.Array:
    """Return bool[b, t, j]: words may attend to all real ones, but the old words to no new one.

    The last old word is an exception: its sign is not decided until new words follow it.

    Args:
        valid_bj: bool[b, j], True for real words.
        num_old_b: int32[b], number of old words.
    """
    assert_shape(num_old_b, "B", "num_old", **assert_shape(valid_bj, "B,J", "valid"))
    place_j = jnp.arange(valid_bj.shape[1])
    is_closed_bt = place_j[None, :] < num_old_b[:, None] - 1
    is_new_bj = place_j[None, :] >= num_old_b[:, None]
    return valid_bj[:, None, :] & ~(is_closed_bt[:, :, None] & is_new_bj[:, None, :])
