"""The parallel decoder: all tokens at once, from their acoustic embeddings.

Letters: b batch, u tokens, t encoder frames, d model width, v vocabulary.
"""

import flax.linen as nn
import jax.numpy as jnp

from asr.config import DecoderConfig
from asr.models.initialisers import normal
from asr.models.layers import Attend, Dense, Dropout, FeedForward, FsmnMemory, LayerNorm, Logits


class Decoder(nn.Module):
    """float[b, u, d] embeddings and float[b, t, d] encoder frames → float32[b, u, v] logits.

    `num_layers` blocks with cross attention, `num_memory_layers` without, `num_ffn_layers` of feed-forward networks,
    a layer norm, and the output map. There are no positions: the embeddings come in order, and the memory sees
    neighbours.

    Reference: Gao et al., 2022, section 2.4; `ParaformerSANMDecoder` of FunASR.
    """

    config: DecoderConfig
    width: int  # d, the encoder's
    vocab_size: int  # v
    attention: str = "explicit"  # implementation of the cross attention
    causal: bool = False  # the memories hear no later tokens: the decoder of a stream
    remat: bool = False  # recompute a block's activations in the backward pass

    def setup(self):
        """Name the layers."""
        config = self.config
        block = nn.remat(DecoderBlock, static_argnums=(5, 6)) if self.remat else DecoderBlock
        self.embedding_vd = self.param("embedding", normal(1.0), (self.vocab_size, self.width), jnp.float32)
        kind = config, self.attention, self.causal
        self.blocks = [block(*kind, True, name=f"block{n}") for n in range(config.num_layers)]
        self.memory_blocks = [block(*kind, False, name=f"memory_block{n}") for n in range(config.num_memory_layers)]
        self.ffn_blocks = [DecoderFeedForward(config, name=f"ffn_block{n}") for n in range(config.num_ffn_layers)]
        self.norm = LayerNorm(name="norm")
        self.output = Logits(self.vocab_size, name="output")

    def __call__(self, embedding_bud, token_valid_bu, hidden_btd, mask_but, *, train: bool, chunks=None):
        """Return the logits of every token position.

        Args:
            embedding_bud: float[b, u, d], acoustic embeddings, some replaced by `embed` in training.
            token_valid_bu: bool[b, u], True for real tokens.
            hidden_btd: float[b, t, d], the encoder's output.
            mask_but: bool[b, 1, t], True for real frames; or bool[b, u, t], for those that each token may attend to.
            train: apply dropout (key `dropout`).
            chunks: a `DecoderChunks`, with what came before these tokens and frames; the mask covers its frames, too.
        """
        return self.output(self.hidden(embedding_bud, token_valid_bu, hidden_btd, mask_but, train=train, chunks=chunks))

    def hidden(self, embedding_bud, token_valid_bu, hidden_btd, mask_but, *, train: bool, chunks=None):
        """Return what the logits are made of, float[b, u, d]; arguments as of a call."""
        x_bud = embedding_bud
        # Unless causal, each token hears all others: they are decoded at once.
        for block in self.blocks:
            x_bud = block(x_bud, token_valid_bu, hidden_btd, mask_but, train, chunks)
        return self.finish(x_bud, token_valid_bu, hidden_btd, mask_but, train, chunks)

    def finish(self, x_bud, token_valid_bu, hidden_btd, mask_but, train: bool, chunks=None):
        """Return what the logits are made of, from what the blocks with cross attention made."""
        for block in self.memory_blocks:
            x_bud = block(x_bud, token_valid_bu, hidden_btd, mask_but, train, chunks)
        for block in self.ffn_blocks:
            x_bud = block(x_bud, train)
        return self.norm(x_bud)

    def embed(self, tokens_bu):
        """Return the learned embedding of each token, float32[b, u, d], as the glancing sampler shows it."""
        return self.embedding_vd[tokens_bu]


class DecoderBlock(nn.Module):
    """Feed-forward network, memory over the tokens, attention to the encoder's frames.

        y = norm2(FFN(norm1(x)))
        x = x + dropout(memory(y))
        x = x + dropout(W_out · attention(W_q · norm3(x), W_kv · hidden))

    The feed-forward network comes first and has no residual of its own. Without cross attention the last line is
    omitted.
    """

    config: DecoderConfig
    attention: str
    causal: bool
    attends: bool

    @nn.compact
    def __call__(self, x_bud, token_valid_bu, hidden_btd, mask_but, train: bool, chunks=None):
        """Return float[b, u, d]."""
        config, width = self.config, x_bud.shape[-1]
        y_bud = _feed_forward(config, width)(LayerNorm(name="norm1")(x_bud), train)
        y_bud = LayerNorm(name="norm2")(y_bud)
        y_bsd, valid_bs = chunks.remember(y_bud, token_valid_bu) if chunks else (y_bud, token_valid_bu)
        memory_bsd = FsmnMemory(config.kernel_size, config.dropout, self.causal, name="memory")(y_bsd, valid_bs, train)
        x_bud = x_bud + memory_bsd[:, -x_bud.shape[1] :]
        if not self.attends:
            return x_bud
        # Each token looks again at the frames, all of them: its embedding holds only its own stretch of sound.
        q_bud = Dense(width, name="q")(LayerNorm(name="norm3")(x_bud))
        k_btd, v_btd = jnp.split(Dense(2 * width, name="kv")(hidden_btd), 2, axis=-1)
        k_btd, v_btd = chunks.extend(k_btd, v_btd) if chunks else (k_btd, v_btd)
        attend = Attend(config.num_heads, config.attention_dropout, self.attention)
        attended_bud = Dense(width, name="out")(attend(q_bud, k_btd, v_btd, mask_but, train))
        return x_bud + Dropout(config.dropout)(attended_bud, train)


class DecoderFeedForward(nn.Module):
    """x = FFN(norm1(x)), without residual: float[b, u, d] → the same shape."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x_bud, train: bool):
        """Return float[b, u, d]."""
        return _feed_forward(self.config, x_bud.shape[-1])(LayerNorm(name="norm1")(x_bud), train)


def _feed_forward(config: DecoderConfig, width: int) -> FeedForward:
    return FeedForward(config.ffn_width, width, config.dropout, inner_norm=True, name="ffn")
