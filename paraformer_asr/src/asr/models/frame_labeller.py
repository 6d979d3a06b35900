"""Trains FSMN-VAD by the loop that trains recognisers: as a model that writes one label for each frame.

A transcript of "0011110" says that frames 2 to 5 are speech. So the data set has such texts (`asr.data.speech_labels`),
the tokenizer has the tokens 0 and 1, the error rate of characters is that of frames, and nothing else changes:

    run = asr.train(config, model=asr.FrameLabelling(sizes), loss=asr.frame_loss, train_set=…, val_set=…)
    detector = asr.load(run.path)

Letters: b batch, t frames, i input width, u labels, v vocabulary, c classes.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config import ModelConfig
from asr.config.voice_activity import FsmnConfig
from asr.errors import UserError
from asr.losses import masked_cross_entropy
from asr.models.fsmn_vad import FsmnVad
from asr.models.paraformer import Acoustics, Hypotheses, TrainingOutputs

BEFORE, BEHIND = 3, 1  # special tokens before and behind the labels in the vocabulary
NEVER = -30.0  # their logit: they are never written


@dataclasses.dataclass(frozen=True)
class FrameLabelling:
    """The argument `model` of `asr.train` for a voice activity detector."""

    sizes: FsmnConfig = FsmnConfig(num_classes=2)

    def __call__(self, config: ModelConfig) -> "FrameLabeller":
        """Return the network; refuse texts that are not frame labels."""
        if config.predictor.append_eos:
            raise UserError("frame labels have no end of sentence: set model.predictor.append_eos=false")
        num_labels = config.vocab_size - BEFORE - BEHIND
        if num_labels != self.sizes.num_classes:
            raise UserError(
                f"expected texts of {self.sizes.num_classes} different labels, as of asr.SpeechLabels, found "
                f"{num_labels}; with silence or speech alone there is nothing to learn"
            )
        return FrameLabeller(self.sizes)


class FrameLabeller(nn.Module):
    """FSMN-VAD with the methods of a recogniser: `__call__` trains, `encode` and `decode` evaluate."""

    sizes: FsmnConfig

    def setup(self):
        """Name the network, as the detector finds it in the run."""
        self.network = FsmnVad(self.sizes)

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
        count_b = feature_lengths_b.astype(jnp.float32)
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
        return jnp.pad(logits_btc, ((0, 0), (0, 0), (BEFORE, BEHIND)), constant_values=NEVER)


def frame_loss(outputs: TrainingOutputs, tokens_bu, token_lengths_b) -> jax.Array:
    """Return the cross-entropy of the frame labels, summed over the batch: the argument `loss` of `asr.train`.

    Args:
        outputs: of `FrameLabeller`.
        tokens_bu: int32[b, u], the labels as tokens.
        token_lengths_b: int32[b], labels of each row.
    """
    return masked_cross_entropy(outputs.logits_buv, tokens_bu, token_lengths_b)


def _diagonal(logits_buv, num_frames: int | None = None) -> jax.Array:
    """Return float32[b, u, t], the alignment: each label comes from its own frame."""
    b, u, _ = logits_buv.shape
    return jnp.broadcast_to(jnp.eye(u, num_frames)[None], (b, u, num_frames or u))
