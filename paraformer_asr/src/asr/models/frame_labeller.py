"""Trains FSMN-VAD by the loop that trains recognisers: as a model that writes one label for each frame.

A transcript of "0011110" says that frames 2 to 5 are speech. So the data set has such texts (`asr.data.speech_labels`),
the tokenizer has the tokens 0 and 1, the cross-entropy of tokens is that of frames, and nothing else changes.

Letters: b batch, t frames, i input width, u labels, v vocabulary, c classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config import ModelConfig
from asr.config.voice_activity import FsmnConfig
from asr.models.fsmn_vad import FsmnVad
from asr.models.paraformer import Acoustics, Hypotheses, TrainingOutputs

BEFORE = 3  # special tokens before the labels in the vocabulary
NEVER = -30.0  # logit of the special tokens: they are never written


def network_sizes(config: ModelConfig) -> FsmnConfig:
    """Return the sizes of the network that `config` describes: its classes are silence and speech."""
    return FsmnConfig(**vars(config.vad), num_classes=2)


class FrameLabeller(nn.Module):
    """FSMN-VAD with the methods of a recogniser: `__call__` trains, `encode` and `decode` evaluate."""

    config: ModelConfig

    def setup(self):
        """Name the network, as the detector finds it in the run."""
        self.network = FsmnVad(network_sizes(self.config))

    def __call__(self, features_bti, feature_lengths_b, tokens_bu, token_lengths_b, *, train: bool) -> TrainingOutputs:
        """Return logits_buv, the scores of the frame that each label stands for.

        Label n of N stands for frame ⌊(n + ½) · T / N⌋ of T: they are equally many, unless the playback speed was
        changed.

        Args:
            features_bti: float32[b, t, i], normalised frames.
            feature_lengths_b: int32[b], real frames T.
            tokens_bu: int32[b, u], the labels as tokens.
            token_lengths_b: int32[b], N.
            train: has no effect; there is no dropout.
        """
        logits_btv = self.token_logits(features_bti)
        share_bu = (jnp.arange(tokens_bu.shape[1])[None, :] + 0.5) / jnp.maximum(token_lengths_b, 1)[:, None]
        frame_bu = jnp.clip((share_bu * feature_lengths_b[:, None]).astype(jnp.int32), 0, features_bti.shape[1] - 1)
        logits_buv = jnp.take_along_axis(logits_btv, frame_bu[..., None], axis=1)
        count_b = token_lengths_b.astype(jnp.float32)  # as many as there should be: nothing is counted
        return TrainingOutputs(logits_buv, logits_buv, count_b, _diagonal(logits_buv), feature_lengths_b, None)

    def encode(self, features_bti, feature_lengths_b) -> Acoustics:
        """Return the scores as hidden frames, one token in each."""
        logits_btv = self.token_logits(features_bti)
        alpha_bt = jnp.ones((features_bti.shape[0], features_bti.shape[1] + 1))
        return Acoustics(logits_btv, feature_lengths_b, alpha_bt, feature_lengths_b, None)

    def decode(self, acoustics: Acoustics, num_rows: int) -> Hypotheses:
        """Return the scores as those of `num_rows` tokens."""
        logits_btv = acoustics.hidden_btd
        missing = max(num_rows - logits_btv.shape[1], 0)
        logits_buv = jnp.pad(logits_btv, ((0, 0), (0, missing), (0, 0)))[:, :num_rows]
        lengths_b = jnp.minimum(acoustics.frame_lengths_b, num_rows)
        return Hypotheses(logits_buv, _diagonal(logits_buv, logits_btv.shape[1] + 1), lengths_b)

    def token_logits(self, features_bti) -> jax.Array:
        """Return float32[b, t, v], the network's scores among those of the special tokens."""
        logits_btc, _ = self.network(features_bti)
        behind = self.config.vocab_size - BEFORE - logits_btc.shape[-1]
        return jnp.pad(logits_btc, ((0, 0), (0, 0), (BEFORE, behind)), constant_values=NEVER)


def _diagonal(logits_buv, num_frames: int | None = None) -> jax.Array:
    """Return float32[b, u, t], the alignment: each label comes from its own frame."""
    b, u, _ = logits_buv.shape
    return jnp.broadcast_to(jnp.eye(u, num_frames)[None], (b, u, num_frames or u))
