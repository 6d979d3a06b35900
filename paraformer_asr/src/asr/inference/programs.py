"""The compiled programs of the parallel decoder, one for each shape of sound and number of tokens.

    listen   sound → frames, the predictor's weights and the number of tokens
    spell    these → the tokens with confidence and times, for a fixed number of rows

The parallel decoder runs for a quarter or a half of the frames' number, or for all tokens that can fire: their number,
fetched after `listen`, decides. A shape that was not compiled ahead is compiled when it is met.

Letters: b batch, n samples, t frames, u token positions, v vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from asr.config import Config, FeaturesConfig
from asr.data.frontend import Cmvn, make_frontend, num_feature_frames
from asr.decode import greedy, token_times
from asr.inference.shapes import Shape, row_counts
from asr.inference.tuning import PackedWeights
from asr.models import Acoustics, build_model

Variables = Any


@struct.dataclass
class Spelling:
    """The tokens of a batch, on the device or on the host."""

    ids_bu: Any  # int32, special tokens included
    confidence_bu: Any  # float32, probability of each
    start_s_bu: Any  # float32, when it begins
    end_s_bu: Any  # float32, when it ends
    lengths_b: Any  # int32, tokens of each utterance
    finite_b: Any = None  # bool, the predictor's weights are finite; None without a predictor


@struct.dataclass
class Heard:
    """The result of `listen`."""

    acoustics: Acoustics  # without CTC logits
    duration_s_b: Any  # float32, length of the sound


def make_listen(config: Config, cmvn: Cmvn | None, model: nn.Module | None = None) -> Callable[..., Heard]:
    """Return `listen(variables, wave_bn, wave_lengths_b) → Heard`: front end, encoder, predictor."""
    model, frontend = model or build_model(config.model), make_frontend(config.features, cmvn)

    def listen(variables: Variables, wave_bn: jax.Array, wave_lengths_b: jax.Array) -> Heard:
        features_bti, lengths_b = frontend(wave_bn, wave_lengths_b)
        acoustics = model.apply(variables, features_bti, lengths_b, method="encode")
        # The CTC logits are large and not needed here; unused, they are never computed.
        return Heard(acoustics.replace(ctc_logits_btv=None), wave_lengths_b / config.features.sample_rate_hz)

    return listen


def make_spell(config: Config, model: nn.Module | None = None) -> Callable[..., Spelling]:
    """Return `spell(variables, heard, num_rows) → Spelling`: parallel decoder, greedy choice, times."""
    model = model or build_model(config.model)

    def spell(variables: Variables, heard: Heard, num_rows: int) -> Spelling:
        hypotheses = model.apply(variables, heard.acoustics, num_rows, method="decode")
        ids_bu, confidence_bu = greedy(hypotheses.logits_buv, hypotheses.token_lengths_b)
        start_s_bu, end_s_bu = token_times(
            hypotheses.alignment_but,
            hypotheses.token_lengths_b,
            heard.acoustics.frame_lengths_b,
            heard.duration_s_b,
            **time_grid(config.features),
        )
        return Spelling(ids_bu, confidence_bu, start_s_bu, end_s_bu, hypotheses.token_lengths_b)

    return spell


def time_grid(features: FeaturesConfig) -> dict[str, float]:
    """Return the times of the encoder's frames, as arguments of `asr.decode.token_times`."""
    return {"frame_shift_ms": features.output_shift_ms, "first_centre_ms": features.frame_length_ms / 2}


class CifPrograms:
    """The parallel decoder of one model, compiled ahead or when a shape first occurs."""

    def __init__(self, config: Config, cmvn: Cmvn | None, variables: Variables, model: nn.Module | None = None):
        self._features, self._tokens_per_frame = config.features, config.model.predictor.smooth_factor
        self.weights = PackedWeights(config.model, variables)
        self._listen = jax.jit(self.weights.reading(make_listen(config, cmvn, model)))
        self._spell = jax.jit(self.weights.reading(make_spell(config, model)), static_argnums=2)
        self._listens: dict[Shape, jax.stages.Compiled] = {}
        self._spells: dict[tuple[Shape, int], jax.stages.Compiled] = {}

    def compilations(self, shape: Shape) -> list[Callable[[], None]]:
        """Return what has to be called, in any order and thread, before batches of this shape need no compiler."""
        if all((shape, num_rows) in self._spells for num_rows in self._row_counts(shape)):
            return []
        lowered = self._lower_listen(shape)
        spells = (
            functools.partial(self._compile_spell, shape, num_rows, lowered.out_info)
            for num_rows in self._row_counts(shape)
        )
        return [functools.partial(self._compile_listen, shape, lowered), *spells]

    def start(self, wave_bn: np.ndarray, wave_lengths_b: np.ndarray) -> Callable[[], Spelling]:
        """Start recognising a batch; return the function that waits for its tokens and returns them, on the host.

        Args:
            wave_bn: float32[b, n] in −1…1, 0 behind each end.
            wave_lengths_b: int32[b]; 0 in a row that only fills up the batch.
        """
        shape = Shape(*wave_bn.shape)
        if shape not in self._listens:
            self._compile_listen(shape, self._lower_listen(shape))
        heard = self._listens[shape](self.weights.arrays, wave_bn, wave_lengths_b)
        return functools.partial(self._finish, shape, heard)

    def _finish(self, shape: Shape, heard: Heard) -> Spelling:
        most = int(np.asarray(heard.acoustics.token_count_b).max())
        num_rows = min(rows for rows in self._row_counts(shape) if rows >= most)
        if (shape, num_rows) not in self._spells:
            self._compile_spell(shape, num_rows, heard)
        spelling = jax.device_get(self._spells[shape, num_rows](self.weights.arrays, heard))
        return spelling.replace(finite_b=np.isfinite(np.asarray(heard.acoustics.alpha_bt)).all(axis=1))

    def _row_counts(self, shape: Shape) -> tuple[int, ...]:
        return row_counts(num_feature_frames(shape.num_samples, self._features), self._tokens_per_frame)

    def _lower_listen(self, shape: Shape) -> jax.stages.Lowered:
        return self._listen.lower(self.weights.arrays, *abstract_sound(shape))

    def _compile_listen(self, shape: Shape, lowered: jax.stages.Lowered) -> None:
        self._listens[shape] = lowered.compile(self.weights.options)

    def _compile_spell(self, shape: Shape, num_rows: int, heard: Heard) -> None:
        lowered = self._spell.lower(self.weights.arrays, heard, num_rows)
        self._spells[shape, num_rows] = lowered.compile(self.weights.options)


def abstract_sound(shape: Shape) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return the shapes of wave_bn and wave_lengths_b."""
    wave_bn = jax.ShapeDtypeStruct((shape.batch_size, shape.num_samples), jnp.float32)
    return wave_bn, jax.ShapeDtypeStruct((shape.batch_size,), jnp.int32)
