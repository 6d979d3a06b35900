"""SenseVoice: an encoder with a CTC head that also hears the language, the emotion and the kind of sound.

Four learned rows, the queries, stand in front of the frames. The CTC head answers them with tags, such as
`<|zh|><|NEUTRAL|><|Speech|><|woitn|>`, and the frames with text.

Letters: b batch, q queries, t frames (in the encoder and behind it: the queries and then the frames), i input width,
d model width, v vocabulary.

Reference: `SenseVoiceSmall` of FunASR; An et al., 2024, "FunAudioLLM", arXiv 2407.04051, section 2.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from asr.config import ModelConfig
from asr.contracts import assert_shape
from asr.models.blocks import SanmBlock
from asr.models.initialisers import normal
from asr.models.layers import Dropout, LayerNorm, Logits
from asr.ops.attention import padding_mask
from asr.ops.masks import length_mask
from asr.ops.position import sinusoid

NUM_QUERIES = 4
"""Rows in front of the frames: language, emotion and event, text normalisation."""

LANGUAGES = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12, "nospeech": 13}
EMOTION_AND_EVENT = 1, 2
WITH_ITN, WITHOUT_ITN = 14, 15
NUM_EMBEDDINGS = 16
"""Rows of the table of queries; those without a name are not used, as published."""

EPSILON = 1e-5
"""Added to the variance in every layer norm. Paraformer has 1e-12."""


@struct.dataclass
class Reading:
    """What the CTC head writes.

    Attributes:
        ctc_logits_btv: float32, of the queries and then the frames; −inf for a banned token.
        frame_lengths_b: int32, real rows, the queries included; 0 for an utterance without a frame.
    """

    ctc_logits_btv: jax.Array
    frame_lengths_b: jax.Array


class SenseVoice(nn.Module):
    """The network; `encode` transcribes.

    Attributes:
        config: `vocab_size` is set, and `emo_unknown_id` if that emotion is banned.
    """

    config: ModelConfig

    def setup(self):
        """Name the parts."""
        config = self.config
        self.query_qi = self.param("queries", normal(1.0), (NUM_EMBEDDINGS, config.input_dim), jnp.float32)
        self.encoder = SenseVoiceEncoder(config)
        self.ctc = Logits(config.vocab_size)

    def __call__(self, features_bti, feature_lengths_b, tokens_bu=None, token_lengths_b=None, *, train: bool = False):
        """Return the reading; called as `Paraformer` is, the tokens are not looked at."""
        return self.encode(features_bti, feature_lengths_b, train=train)

    def encode(self, features_bti, feature_lengths_b, language_b=None, *, train: bool = False) -> Reading:
        """Return the logits of every row.

        Args:
            features_bti: float32[b, t, i], normalised frames.
            feature_lengths_b: int32[b], real frames.
            language_b: int32[b], the query of each utterance's language, of `LANGUAGES`; None: the config's for all.
            train: apply dropout (key `dropout`).
        """
        dims = assert_shape(features_bti, "b,t,i", "features")
        assert_shape(feature_lengths_b, "b", "feature_lengths", **dims)
        chex.assert_type(feature_lengths_b, int)
        options = self.config.sense_voice
        chosen = LANGUAGES[options.language], *EMOTION_AND_EVENT, WITH_ITN if options.use_itn else WITHOUT_ITN
        query_bq = jnp.broadcast_to(jnp.array(chosen), (dims["b"], NUM_QUERIES))
        query_bq = query_bq if language_b is None else query_bq.at[:, 0].set(language_b)
        query_bqi = self.query_qi[query_bq]
        valid_bt = length_mask(feature_lengths_b, dims["t"])
        # Whatever padding holds, even NaN, must not reach a real row.
        features_bti = jnp.where(valid_bt[..., None], features_bti, 0)
        x_bti = jnp.concatenate([query_bqi, features_bti], axis=1).astype(self.config.dtype)
        lengths_b = jnp.where(feature_lengths_b > 0, feature_lengths_b + NUM_QUERIES, 0)
        hidden_btd = self.encoder(x_bti, length_mask(lengths_b, x_bti.shape[1]), train=train)
        logits_btv = self.ctc(hidden_btd)
        if options.ban_emo_unk:
            logits_btv = logits_btv.at[:, :, options.emo_unknown_id].set(-jnp.inf)
        return Reading(ctc_logits_btv=logits_btv, frame_lengths_b=lengths_b)


class SenseVoiceEncoder(nn.Module):
    """float[b, t, i] → float[b, t, d]: two stacks of SAN-M blocks, each with a norm behind it.

    x = late_norm(late_blocks(norm(blocks(x · √d + positions))))
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x_bti, valid_bt, *, train: bool):
        """Return the encoded rows; those that `valid_bt` marks do not depend on the others."""
        config, encoder = self.config, self.config.encoder
        block = nn.remat(SanmBlock, static_argnums=(4,)) if config.remat else SanmBlock
        mask_b1t = padding_mask(valid_bt)
        # Positions count the queries too: the first frame has position 5.
        x_btd = x_bti * encoder.width**0.5 + sinusoid(*x_bti.shape[1:])[None].astype(x_bti.dtype)
        x_btd = Dropout(encoder.input_dropout)(x_btd, train)
        for name, num_layers in (("", encoder.num_layers), ("late_", config.sense_voice.num_late_layers)):
            for number in range(num_layers):
                x_btd = block(encoder, EPSILON, name=f"{name}block{number}")(x_btd, valid_bt, mask_b1t, train)
            x_btd = LayerNorm(EPSILON, name=f"{name}norm")(x_btd)
        return x_btd
