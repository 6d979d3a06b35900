"""Paraformer: encode → predict → sample → decode, all tokens at once.

Letters: b batch, t encoder frames, i input width, d model width, u tokens, v vocabulary.

Reference: Gao, Zhang, McLoughlin and Yan, Interspeech 2022, arXiv 2206.08317.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from asr.config import ModelConfig
from asr.contracts import assert_shape
from asr.models.decoder import Decoder
from asr.models.encoder import Encoder
from asr.models.layers import Logits
from asr.models.predictor import Predictor
from asr.models.sampler import glance
from asr.ops import cif
from asr.ops.attention import padding_mask
from asr.ops.masks import length_mask


@struct.dataclass
class TrainingOutputs:
    """The outputs that the losses read.

    Attributes:
        logits_buv: float32, second pass: with the labels that the sampler shows.
        first_logits_buv: float32, first pass: from sound alone; no gradient flows through it.
        token_count_b: float32, Σ alpha as predicted.
        alignment_but: float32, integrate-and-fire's overlap matrix, N full rows for N tokens.
        frame_lengths_b: int32, real encoder frames.
        ctc_logits_btv: float32, or None without a CTC head.
    """

    logits_buv: jax.Array
    first_logits_buv: jax.Array
    token_count_b: jax.Array
    alignment_but: jax.Array
    frame_lengths_b: jax.Array
    ctc_logits_btv: jax.Array | None


@struct.dataclass
class Frames:
    """What is heard.

    Attributes:
        hidden_btd: encoder frames, 0 where padded.
        valid_bt: bool, real frames.
        alpha_bt: float32, the predictor's weights.
        windows: a streaming model's `Windows`, which its decoder attends to instead of the frames; None otherwise.
    """

    hidden_btd: jax.Array
    valid_bt: jax.Array
    alpha_bt: jax.Array
    windows: Any = None

    def attended(self, cumulative_bt, num_rows: int) -> tuple[jax.Array, jax.Array]:
        """Return (frames, mask) for the decoder's attention; `cumulative_bt` is the running sum of the weights."""
        if self.windows is None:
            return self.hidden_btd, padding_mask(self.valid_bt)
        return self.windows.attended(cumulative_bt, num_rows)


@struct.dataclass
class Acoustics:
    """The outputs of encoder and predictor.

    Attributes:
        hidden_btd: encoder frames, 0 where padded.
        frame_lengths_b: int32, real encoder frames.
        alpha_bt: float32[b, t + 1], the predictor's weights and, behind the last frame, the tail.
        token_count_b: int32, ⌊Σ alpha⌋ with the tail: the tokens that fire. Without a tail, Σ alpha rounded.
        ctc_logits_btv: float32, or None without a CTC head.
        windows: as of `Frames`.
    """

    hidden_btd: jax.Array
    frame_lengths_b: jax.Array
    alpha_bt: jax.Array
    token_count_b: jax.Array
    ctc_logits_btv: jax.Array | None
    windows: Any = None


@struct.dataclass
class AcousticTokens:
    """The tokens as they are heard, before the decoder.

    Attributes:
        acoustic_bud: float, the frames that each token collected.
        alignment_but: float32[b, u, t + 1], what each frame gave to each token; the last column is the tail's.
        token_lengths_b: int32, real rows.
    """

    acoustic_bud: jax.Array
    alignment_but: jax.Array
    token_lengths_b: jax.Array

    def decoder_inputs(self, acoustics: Acoustics) -> tuple[jax.Array, ...]:
        """Return the arguments of `Decoder`."""
        num_rows = self.acoustic_bud.shape[1]
        token_valid_bu = length_mask(self.token_lengths_b, num_rows)
        valid_bt = length_mask(acoustics.frame_lengths_b, acoustics.hidden_btd.shape[1])
        frames = Frames(acoustics.hidden_btd, valid_bt, acoustics.alpha_bt, acoustics.windows)
        return self.acoustic_bud, token_valid_bu, *frames.attended(cif.cumulative(acoustics.alpha_bt), num_rows)


@struct.dataclass
class Hypotheses:
    """The outputs of the decoder.

    Attributes:
        logits_buv: float32.
        alignment_but: float32[b, u, t + 1], what each frame gave to each token; the last column is the tail's.
        token_lengths_b: int32, real rows.
    """

    logits_buv: jax.Array
    alignment_but: jax.Array
    token_lengths_b: jax.Array


class Paraformer(nn.Module):
    """The network. `__call__` is training's path; `encode` and then `decode` transcribe.

    Attributes:
        config: `vocab_size` is set.
    """

    config: ModelConfig

    def setup(self):
        """Name the parts."""
        config = self.config
        self.encoder = Encoder(config.encoder, config.remat)
        self.predictor = Predictor(config.predictor)
        self.decoder = self.build_decoder()
        if config.ctc_head:
            self.ctc = Logits(config.vocab_size)

    def build_decoder(self) -> Decoder:
        """Return the decoder."""
        config = self.config
        return Decoder(config.decoder, config.encoder.width, config.vocab_size, config.encoder.attention, config.remat)

    def write(self, embedding_bud, token_valid_bu, hidden_btd, mask_but, *, train: bool):
        """Return the logits of every token position; arguments as of `Decoder`."""
        return self.decoder(embedding_bud, token_valid_bu, hidden_btd, mask_but, train=train)

    def __call__(self, features_bti, feature_lengths_b, tokens_bu, token_lengths_b, *, train: bool) -> TrainingOutputs:
        """Return both passes' logits and the predictor's count, aligned to the true tokens.

        Args:
            features_bti: float32[b, t, i], normalised frames.
            feature_lengths_b: int32[b], real frames.
            tokens_bu: int32[b, u], the true tokens, with the end of sentence where `append_eos`.
            token_lengths_b: int32[b], N; 0 for a padding row.
            train: dropout (key `dropout`) and the sampler (key `sampler`).
        """
        dims = assert_shape(features_bti, "b,t,i", "features")
        dims |= assert_shape(tokens_bu, "b,u", "tokens", **dims)
        assert_shape(feature_lengths_b, "b", "feature_lengths", **dims)
        assert_shape(token_lengths_b, "b", "token_lengths", **dims)
        chex.assert_type([feature_lengths_b, tokens_bu, token_lengths_b], int)
        frames = self.listen(features_bti, feature_lengths_b, train)
        return self.compare(frames, feature_lengths_b, tokens_bu, token_lengths_b, train)

    def compare(self, frames: Frames, feature_lengths_b, tokens_bu, token_lengths_b, train: bool) -> TrainingOutputs:
        """Return the outputs for the true tokens; arguments as of a call."""
        hidden_btd, num_rows = frames.hidden_btd, tokens_bu.shape[1]
        # Scaled to the true count, so that there are exactly N embeddings to compare with N tokens.
        cumulative_bt = cif.scaled_cumulative(frames.alpha_bt, frames.valid_bt, token_lengths_b)
        alignment_but = cif.align(cumulative_bt, num_rows)
        acoustic_bud = cif.integrate(alignment_but, hidden_btd).astype(hidden_btd.dtype)
        attended = frames.attended(cumulative_bt, num_rows)

        def decode(embedding_bud):
            return self.write(embedding_bud, length_mask(token_lengths_b, num_rows), *attended, train=train)

        logits_buv = decode(acoustic_bud)  # first pass: from sound alone
        # It only decides how many labels are shown; training goes through the second pass.
        first_logits_buv = jax.lax.stop_gradient(logits_buv)
        if train and self.config.sampling_ratio > 0:
            label_bud, predicted_bu = self.decoder.embed(tokens_bu), first_logits_buv.argmax(-1)
            mixed_bud, _ = glance(
                self.make_rng("sampler"),
                acoustic_bud,
                label_bud,
                predicted_bu,
                tokens_bu,
                token_lengths_b,
                ratio=self.config.sampling_ratio,
            )
            logits_buv = decode(mixed_bud)  # second pass: some true tokens are shown

        return TrainingOutputs(
            logits_buv=logits_buv,
            first_logits_buv=first_logits_buv,
            token_count_b=frames.alpha_bt.sum(1),  # unscaled: the predictor has to learn the count itself
            alignment_but=alignment_but,
            frame_lengths_b=feature_lengths_b,
            ctc_logits_btv=self.ctc(hidden_btd) if self.config.ctc_head else None,
        )

    def encode(self, features_bti, feature_lengths_b) -> Acoustics:
        """Return all that does not depend on the number of tokens: frames, weights, and that number.

        Args:
            features_bti: float32[b, t, i], normalised frames.
            feature_lengths_b: int32[b], real frames; 0 gives no token.
        """
        dims = assert_shape(features_bti, "b,t,i", "features")
        assert_shape(feature_lengths_b, "b", "feature_lengths", **dims)
        frames = self.listen(features_bti, feature_lengths_b, train=False)
        tail = self.config.predictor.tail_threshold
        alpha_bt = cif.add_tail(frames.alpha_bt, feature_lengths_b, tail)  # completes a last token that is nearly there
        total_b = cif.cumulative(alpha_bt)[:, -1]
        # Without a tail that completes it, a last token that has collected half of itself counts, as published.
        count_b = jnp.floor(total_b) if tail else jnp.round(total_b)
        return Acoustics(
            hidden_btd=frames.hidden_btd,
            frame_lengths_b=feature_lengths_b,
            alpha_bt=alpha_bt,
            token_count_b=count_b.astype(jnp.int32),
            ctc_logits_btv=self.ctc(frames.hidden_btd) if self.config.ctc_head else None,
            windows=frames.windows,
        )

    def decode(self, acoustics: Acoustics, num_rows: int) -> Hypotheses:
        """Return the logits of all tokens at once.

        Args:
            acoustics: from `encode`.
            num_rows: u, static, at least the largest token count; tokens beyond it are dropped.
        """
        rows = self.integrate(acoustics, num_rows)
        logits_buv = self.write(*rows.decoder_inputs(acoustics), train=False)
        return Hypotheses(logits_buv, rows.alignment_but, rows.token_lengths_b)

    def integrate(self, acoustics: Acoustics, num_rows: int) -> AcousticTokens:
        """Return the tokens as they are heard; arguments as of `decode`."""
        hidden_btd = acoustics.hidden_btd
        cumulative_bt = cif.cumulative(acoustics.alpha_bt)
        alignment_but = cif.align(cumulative_bt, num_rows)
        acoustic_bud = cif.integrate(alignment_but[:, :, :-1], hidden_btd)  # the tail's frame holds no sound
        if not self.config.predictor.tail_threshold:  # a last token that has not fired has no embedding, as published
            fired_bu = length_mask(jnp.floor(cumulative_bt[:, -1]).astype(jnp.int32), num_rows)
            acoustic_bud = jnp.where(fired_bu[..., None], acoustic_bud, 0)
        token_lengths_b = jnp.minimum(acoustics.token_count_b, num_rows)
        return AcousticTokens(acoustic_bud.astype(hidden_btd.dtype), alignment_but, token_lengths_b)

    def listen(self, features_bti, feature_lengths_b, train: bool) -> Frames:
        """Return what encoder and predictor make of the sound."""
        valid_bt = length_mask(feature_lengths_b, features_bti.shape[1])
        # Whatever padding holds, even NaN, must not reach a real frame.
        features_bti = jnp.where(valid_bt[..., None], features_bti, 0).astype(self.config.dtype)
        hidden_btd = self.encoder(features_bti, valid_bt, train=train)
        # The predictor's convolution sees one frame beyond the end: without this line a batch would change the answer.
        hidden_btd = jnp.where(valid_bt[..., None], hidden_btd, 0)
        return Frames(hidden_btd, valid_bt, self.predictor(hidden_btd, valid_bt, train=train)[..., 0])
