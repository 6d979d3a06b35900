"""Contextual Paraformer: Paraformer whose last block of the decoder also attends to hot words.

Letters: b batch, t encoder frames, u tokens, w hot words, d model width, v vocabulary.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config import DecoderConfig
from asr.models.decoder import Decoder
from asr.models.hotwords import HotwordEncoder, Hotwords, attend_to_hotwords
from asr.models.initialisers import normal
from asr.models.layers import Attend, Dense, Dropout, FeedForward, FsmnMemory, LayerNorm
from asr.models.paraformer import Acoustics, Hypotheses, Paraformer

NO_HOTWORD = 1  # token whose vector stands for "no hot word", the start of a sentence


class ContextualParaformer(Paraformer):
    """The network; without hot words it attends to "no hot word" alone."""

    def setup(self):
        """Name the parts."""
        super().setup()
        shape = self.config.vocab_size, self.config.encoder.width
        self.hotword_embedding_vd = self.param("hotword_embedding", normal(1.0), shape, jnp.float32)
        self.hotword_encoder = HotwordEncoder(1)

    def build_decoder(self) -> "ContextualDecoder":
        """Return the decoder, which has its last block beside the others."""
        config = self.config
        others = dataclasses.replace(config.decoder, num_layers=config.decoder.num_layers - 1)
        settings = config.encoder.width, config.vocab_size, config.encoder.attention, config.remat
        return ContextualDecoder(others, *settings)

    def write(self, embedding_bud, token_valid_bu, hidden_btd, mask_b1t, *, train: bool, hotwords=None):
        """Return the logits of every token position; `hotwords` as of `decode`, the other arguments of `Decoder`."""
        hotwords = self.no_hotwords() if hotwords is None else hotwords
        return self.decoder(embedding_bud, token_valid_bu, hidden_btd, mask_b1t, hotwords, train=train)

    def remember(self, phrases_wu, lengths_w) -> jax.Array:
        """Return the vector of each phrase, float32[w, d], of its tokens int32[w, u]."""
        return self.hotword_encoder(self.hotword_embedding_vd[phrases_wu], lengths_w)

    def decode(self, acoustics: Acoustics, num_rows: int, hotwords: Hotwords | None = None) -> Hypotheses:
        """Return the logits of all tokens at once.

        Args:
            acoustics: from `encode`.
            num_rows: u, static, as in `Paraformer.decode`.
            hotwords: None: "no hot word" alone.
        """
        rows = self.integrate(acoustics, num_rows)
        logits_buv = self.write(*rows.decoder_inputs(acoustics), train=False, hotwords=hotwords)
        return Hypotheses(logits_buv, rows.alignment_but, rows.token_lengths_b)

    def no_hotwords(self) -> Hotwords:
        """Return the list of "no hot word" alone."""
        vector_wd = self.remember(jnp.full((1, 1), NO_HOTWORD), jnp.ones(1, jnp.int32))
        return Hotwords(vector_wd, jnp.zeros(1), jnp.ones(()))


class ContextualDecoder(Decoder):
    """The decoder; hot words come in behind its blocks, before those with memory only."""

    def setup(self):
        """Name the layers."""
        super().setup()
        self.last_block = ContextualBlock(self.config, self.attention, name="last_block")

    def __call__(self, embedding_bud, token_valid_bu, hidden_btd, mask_b1t, hotwords: Hotwords, *, train: bool):
        """Return the logits of every token position; the first arguments are those of `Decoder`."""
        x_bud = embedding_bud
        for block in self.blocks:
            x_bud = block(x_bud, token_valid_bu, hidden_btd, mask_b1t, train)
        x_bud = self.last_block(x_bud, token_valid_bu, hidden_btd, mask_b1t, hotwords, train)
        return self.output(self.finish(x_bud, token_valid_bu, hidden_btd, mask_b1t, train))


class ContextualBlock(nn.Module):
    """Feed-forward network, memory over the tokens, attention to the frames and to the hot words.

        s = x + memory(norm2(FFN(norm1(x))))
        heard = attention(norm3(s), frames)
        hot   = attention(hotword_norm(s), hot words)
        x = s + W_mix · [heard; scale · hot]

    Both attentions have maps of their own.
    """

    config: DecoderConfig
    attention: str

    @nn.compact
    def __call__(self, x_bud, token_valid_bu, hidden_btd, mask_b1t, hotwords: Hotwords, train: bool):
        """Return float[b, u, d]."""
        config, width = self.config, x_bud.shape[-1]
        ffn = FeedForward(config.ffn_width, width, config.dropout, inner_norm=True, name="ffn")
        y_bud = LayerNorm(name="norm2")(ffn(LayerNorm(name="norm1")(x_bud), train))
        x_bud = x_bud + FsmnMemory(config.kernel_size, config.dropout, name="memory")(y_bud, token_valid_bu, train)

        q_bud = Dense(width, name="q")(LayerNorm(name="norm3")(x_bud))
        k_btd, v_btd = jnp.split(Dense(2 * width, name="kv")(hidden_btd), 2, axis=-1)
        attend = Attend(config.num_heads, config.attention_dropout, self.attention)
        heard_bud = Dense(width, name="out")(attend(q_bud, k_btd, v_btd, mask_b1t, train))

        q_bud = Dense(width, name="hotword_q")(LayerNorm(name="hotword_norm")(x_bud))
        kv_1wd = Dense(2 * width, name="hotword_kv")(hotwords.vector_wd[None].astype(x_bud.dtype))
        _, hot_bud = attend_to_hotwords(q_bud, kv_1wd, hotwords.log_weight_w[None], config.num_heads)
        hot_bud = Dense(width, name="hotword_out")(hot_bud) * hotwords.scale.astype(x_bud.dtype)
        mix = Dense(width, use_bias=False, name="mix")
        return x_bud + Dropout(config.dropout)(mix(jnp.concatenate([heard_bud, hot_bud], axis=-1)), train)
