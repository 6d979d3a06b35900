"""The compiled programs of the parallel decoder, one for each shape of sound and number of tokens.

    listen   sound → frames, the predictor's weights and the number of tokens
    spell    these → the tokens with confidence and times, for a fixed number of rows; with hot words another program

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

from asr.config import Config
from asr.data.frontend import Cmvn, make_frontend, num_feature_frames
from asr.data.text.tokenizer import Tokenizer
from asr.decode import HotwordAutomaton, greedy, search_tokens
from asr.inference.hotword_phrases import HotwordAutomata
from asr.inference.hotwords import Hotword
from asr.inference.shapes import Shape, row_counts
from asr.inference.token_timing import make_find_times
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
    """Return `spell(variables, heard, num_rows, automaton) → Spelling`: parallel decoder, choice of tokens, times.

    Without an automaton of hot words (None) the choice is greedy.
    """
    model, search = model or build_model(config.model), functools.partial(search_tokens, **search_options(config))
    find_times = make_find_times(config, model)

    def spell(variables: Variables, heard: Heard, num_rows: int, automaton: HotwordAutomaton | None = None) -> Spelling:
        hypotheses = model.apply(variables, heard.acoustics, num_rows, method="decode")
        inputs = hypotheses.logits_buv, hypotheses.token_lengths_b
        ids_bu, confidence_bu = greedy(*inputs) if automaton is None else search(*inputs, automaton)
        times_bu = find_times(variables, heard.acoustics, heard.duration_s_b, hypotheses, ids_bu)
        return Spelling(ids_bu, confidence_bu, *times_bu, hypotheses.token_lengths_b)

    return spell


def search_options(config: Config) -> dict[str, int]:
    """Return the settings of the search with hot words, as arguments of `asr.decode.search_tokens`."""
    return {"beam_size": config.inference.beam_size, "num_candidates": config.inference.hotword_candidates}


class CifPrograms:
    """The parallel decoder of one model, compiled ahead or when a shape first occurs."""

    def __init__(
        self,
        config: Config,
        cmvn: Cmvn | None,
        variables: Variables,
        tokenizer: Tokenizer,
        model: nn.Module | None = None,
    ):
        self._automata = HotwordAutomata(tokenizer, config.inference.hotword_weight)
        self._features, self._tokens_per_frame = config.features, config.model.predictor.smooth_factor
        self.weights = PackedWeights(config.model, variables)
        self._listen = jax.jit(self.weights.reading(make_listen(config, cmvn, model)))
        self._spell = jax.jit(self.weights.reading(make_spell(config, model)), static_argnums=2)
        self._listens: dict[Shape, jax.stages.Compiled] = {}
        self._spells: dict[tuple[Shape, int, tuple], jax.stages.Compiled] = {}

    def compilations(self, shape: Shape, hotwords: tuple[Hotword, ...] = ()) -> list[Callable[[], None]]:
        """Return what has to be called, in any order and thread, before batches of this shape need no compiler.

        With `hotwords` it is for batches with these, or with others whose automaton has an array of the same size.
        """
        automaton = self._automata(hotwords)
        missing = [rows for rows in self._row_counts(shape) if _key(shape, rows, automaton) not in self._spells]
        if not missing:
            return []
        lowered = self._lower_listen(shape)
        listens = [] if shape in self._listens else [functools.partial(self._compile_listen, shape, lowered)]
        rest = lowered.out_info, automaton
        return listens + [functools.partial(self._compile_spell, shape, rows, *rest) for rows in missing]

    def start(
        self, wave_bn: np.ndarray, wave_lengths_b: np.ndarray, hotwords: tuple[Hotword, ...] = ()
    ) -> Callable[[], Spelling]:
        """Start recognising a batch; return the function that waits for its tokens and returns them, on the host.

        Args:
            wave_bn: float32[b, n] in −1…1, 0 behind each end.
            wave_lengths_b: int32[b]; 0 in a row that only fills up the batch.
            hotwords: to prefer in all rows.
        """
        shape = Shape(*wave_bn.shape)
        if shape not in self._listens:
            self._compile_listen(shape, self._lower_listen(shape))
        heard = self._listens[shape](self.weights.arrays, wave_bn, wave_lengths_b)
        return functools.partial(self._finish, shape, heard, self._automata(hotwords))

    def _finish(self, shape: Shape, heard: Heard, automaton: HotwordAutomaton | None) -> Spelling:
        most = int(np.asarray(heard.acoustics.token_count_b).max())
        num_rows = min(rows for rows in self._row_counts(shape) if rows >= most)
        key = _key(shape, num_rows, automaton)
        if key not in self._spells:
            self._compile_spell(shape, num_rows, heard, automaton)
        spelling = jax.device_get(self._spells[key](self.weights.arrays, heard, automaton))
        return spelling.replace(finite_b=np.isfinite(np.asarray(heard.acoustics.alpha_bt)).all(axis=1))

    def _row_counts(self, shape: Shape) -> tuple[int, ...]:
        return row_counts(num_feature_frames(shape.num_samples, self._features), self._tokens_per_frame)

    def _lower_listen(self, shape: Shape) -> jax.stages.Lowered:
        return self._listen.lower(self.weights.arrays, *abstract_sound(shape))

    def _compile_listen(self, shape: Shape, lowered: jax.stages.Lowered) -> None:
        self._listens[shape] = lowered.compile(self.weights.options)

    def _compile_spell(self, shape: Shape, num_rows: int, heard: Heard, automaton: HotwordAutomaton | None) -> None:
        lowered = self._spell.lower(self.weights.arrays, heard, num_rows, automaton)
        self._spells[_key(shape, num_rows, automaton)] = lowered.compile(self.weights.options)


def _key(shape: Shape, num_rows: int, hotwords: Any) -> tuple[Shape, int, tuple]:
    return shape, num_rows, tuple(array.shape for array in jax.tree.leaves(hotwords))


def abstract_sound(shape: Shape) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return the shapes of wave_bn and wave_lengths_b."""
    wave_bn = jax.ShapeDtypeStruct((shape.batch_size, shape.num_samples), jnp.float32)
    return wave_bn, jax.ShapeDtypeStruct((shape.batch_size,), jnp.int32)
