"""SeACo-Paraformer: BiCif-Paraformer with a branch that replaces tokens by those of hot words.

Letters: b batch, c rows of hot words (b, or 1 for all utterances alike), k hot words kept, u tokens, w hot words,
d model width, a heads, v vocabulary.

Reference: Shi et al., 2023, "SeACo-Paraformer: A non-autoregressive ASR system with flexible and effective hotword
customization ability", arXiv 2308.03266.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config import SeacoConfig
from asr.models.bicif import BicifParaformer
from asr.models.decoder import DecoderFeedForward
from asr.models.hotwords import HotwordEncoder, Hotwords, attend_to_hotwords
from asr.models.layers import Dense, FeedForward, FsmnMemory, LayerNorm, Logits
from asr.models.paraformer import Acoustics, Hypotheses

NUM_ENCODER_LAYERS, NUM_BLOCKS = 2, 6  # of the published model, which states neither


class SeacoParaformer(BicifParaformer):
    """The network; without hot words it is `BicifParaformer`."""

    def setup(self):
        """Name the parts."""
        super().setup()
        self.hotword_encoder = HotwordEncoder(NUM_ENCODER_LAYERS)
        self.hotword_decoder = HotwordDecoder(self.config.seaco)
        self.hotword_output = Logits(self.config.vocab_size)

    def touch_parts(self, x_11d, one_1) -> None:
        """Call what recognition needs beside `Paraformer`."""
        super().touch_parts(x_11d, one_1)
        hotwords = Hotwords(self.remember(one_1[:, None], one_1), jnp.zeros(1), jnp.ones(()))
        self.branch_logits(x_11d, x_11d, one_1[:, None] > 0, hotwords)

    def remember(self, phrases_wu, lengths_w) -> jax.Array:
        """Return the vector of each phrase, float32[w, d], of its tokens int32[w, u]."""
        return self.hotword_encoder(self.decoder.embed(phrases_wu), lengths_w)

    def decode(self, acoustics: Acoustics, num_rows: int, hotwords: Hotwords | None = None) -> Hypotheses:
        """Return the logits of all tokens at once, where hot words were looked for as log probabilities.

            P = log_softmax(decoder(acoustic)), made of its hidden vectors H
            Q = log_softmax(W · (branch(acoustic) + branch(H)))
            logits = Q · scale + P · (1 − scale) where argmax Q is not `no_bias_id`, elsewhere P

        Args:
            acoustics: from `encode`.
            num_rows: u, static, as in `Paraformer.decode`.
            hotwords: None: the plain network.
        """
        rows = self.integrate(acoustics, num_rows)
        inputs = rows.decoder_inputs(acoustics)
        hidden_bud = self.decoder.hidden(*inputs, train=False)
        logits_buv = self.decoder.output(hidden_bud)
        if hotwords is not None:
            branch_buv = self.branch_logits(rows.acoustic_bud, hidden_bud, inputs[1], hotwords)
            logits_buv = self._merge(logits_buv, branch_buv, hotwords.scale)
        return Hypotheses(logits_buv, rows.alignment_but, rows.token_lengths_b)

    def branch_logits(self, acoustic_bud, hidden_bud, token_valid_bu, hotwords: Hotwords) -> jax.Array:
        """Return what the branch says to tokens as they are heard and as the decoder understood them, float32[b, u, v].

        Args:
            acoustic_bud: float[b, u, d], acoustic embeddings.
            hidden_bud: float[b, u, d], from `Decoder.hidden`.
            token_valid_bu: bool[b, u], True for real tokens.
            hotwords: what they are compared with.
        """
        chex.assert_equal_shape([acoustic_bud, hidden_bud])
        chex.assert_shape(token_valid_bu, acoustic_bud.shape[:2])
        memory = hotwords.vector_wd[None].astype(hidden_bud.dtype), hotwords.log_weight_w[None]
        num_kept = self.config.seaco.num_kept
        if 0 < num_kept < memory[0].shape[1]:
            scores_bw = self.hotword_decoder.scores(hidden_bud, token_valid_bu, *memory)
            memory = _keep_best(scores_bw, *memory, num_kept)
        # Both views of the tokens in one batch: the blocks run once, on twice the rows.
        views_bud = jnp.concatenate([acoustic_bud, hidden_bud])
        twice = 2 if len(memory[0]) > 1 else 1  # a list for all utterances is not repeated
        memory = (jnp.concatenate([part] * twice) for part in memory)
        views_bud = self.hotword_decoder(views_bud, jnp.concatenate([token_valid_bu] * 2), *memory)
        return self.hotword_output(sum(jnp.split(views_bud, 2)))

    def _merge(self, logits_buv, branch_buv, scale):
        fits_bu = branch_buv.argmax(-1) != self.config.seaco.no_bias_id
        share_bu1 = jnp.where(fits_bu, scale, 0.0)[..., None]
        return jax.nn.log_softmax(branch_buv) * share_bu1 + jax.nn.log_softmax(logits_buv) * (1 - share_bu1)


def _keep_best(scores_bw, vector_1wd, log_weight_1w, num_kept: int):
    """Return the vectors and weights of the best phrases of each utterance, [b, k, …], and of "no hot word"."""
    _, best_bk = jax.lax.top_k(scores_bw, num_kept)
    # "No hot word" is always there, and twice where it is among the best, as published.
    best_bk = jnp.pad(best_bk, ((0, 0), (1, 0)))
    return vector_1wd[0][best_bk], log_weight_1w[0][best_bk]


class HotwordDecoder(nn.Module):
    """Tokens float[b, u, d] → the same shape, with what hot words say: blocks, a feed-forward network, a norm."""

    config: SeacoConfig

    def setup(self):
        """Name the layers."""
        self.blocks = [HotwordBlock(self.config, name=f"block{n}") for n in range(NUM_BLOCKS)]
        self.ffn_block = DecoderFeedForward(self.config, name="ffn_block0")
        self.norm = LayerNorm(name="norm")

    def __call__(self, x_bud, token_valid_bu, vector_cwd, log_weight_cw):
        """Return the tokens.

        Args:
            x_bud: float[b, u, d].
            token_valid_bu: bool[b, u], True for real tokens.
            vector_cwd: float[c, w, d], the hot words; c is b, or 1 for all utterances alike.
            log_weight_cw: float32[c, w], see `Hotwords`.
        """
        for block in self.blocks:
            _, x_bud = block(x_bud, token_valid_bu, vector_cwd, log_weight_cw)
        return self.norm(self.ffn_block(x_bud, False))

    def scores(self, hidden_bud, token_valid_bu, vector_cwd, log_weight_cw):
        """Return float32[b, w]: how much the tokens of an utterance attend to each hot word in the last block, in all.

        Padding scores −inf. The tokens of other utterances have no part in it.
        """
        weights_bauw = None
        for block in self.blocks:
            weights_bauw, hidden_bud = block(hidden_bud, token_valid_bu, vector_cwd, log_weight_cw)
        scores_bw = jnp.where(token_valid_bu[:, None, :, None], weights_bauw, 0.0).sum((1, 2))
        return jnp.where(log_weight_cw > -jnp.inf, scores_bw, -jnp.inf)


class HotwordBlock(nn.Module):
    """Feed-forward network, memory over the tokens, attention to the hot words; equations as of `DecoderBlock`."""

    config: SeacoConfig

    @nn.compact
    def __call__(self, x_bud, token_valid_bu, vector_cwd, log_weight_cw):
        """Return (weights_bauw, x_bud): the attention to each hot word, and the tokens."""
        config, width = self.config, x_bud.shape[-1]
        ffn = FeedForward(config.ffn_width, width, config.dropout, inner_norm=True, name="ffn")
        y_bud = LayerNorm(name="norm2")(ffn(LayerNorm(name="norm1")(x_bud), False))
        x_bud = x_bud + FsmnMemory(config.kernel_size, config.dropout, name="memory")(y_bud, token_valid_bu, False)
        q_bud = Dense(width, name="q")(LayerNorm(name="norm3")(x_bud))
        kv_cwd = Dense(2 * width, name="kv")(vector_cwd)
        weights_bauw, out_bud = attend_to_hotwords(q_bud, kv_cwd, log_weight_cw, config.num_heads)
        return weights_bauw, x_bud + Dense(width, name="out")(out_bud)
