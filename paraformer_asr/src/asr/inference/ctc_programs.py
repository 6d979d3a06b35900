"""The compiled programs of the CTC head, one for each shape of sound: its best path, or a search over prefixes.

Letters: b batch, n samples, t frames, u token positions, v vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from asr.config import Config
from asr.data.frontend import Cmvn, make_frontend, num_feature_frames
from asr.data.text.tokenizer import Tokenizer
from asr.decode import (
    Fusion,
    HotwordAutomaton,
    HotwordFusion,
    ctc_beam_search,
    ctc_greedy,
    ctc_spans,
    make_fusion,
    read_arpa,
    search_ctc,
    spans_to_alignment,
    token_times,
)
from asr.inference.hotword_phrases import HotwordAutomata
from asr.inference.hotwords import Hotword
from asr.inference.programs import Spelling, Variables, abstract_sound, search_options
from asr.inference.shapes import Shape
from asr.inference.token_timing import time_grid
from asr.inference.tuning import PackedWeights
from asr.models import LANGUAGES, NUM_QUERIES, build_model


@struct.dataclass
class Read:
    """The output of the CTC head."""

    logits_btv: Any  # float32
    frame_lengths_b: Any  # int32, real frames, SenseVoice's queries in front of them included
    duration_s_b: Any  # float32, length of the sound


def make_read(config: Config, cmvn: Cmvn | None, model: nn.Module | None = None) -> Callable[..., Read]:
    """Return `read(variables, wave_bn, wave_lengths_b, language_b=None) → Read`: front end, encoder, CTC head.

    `language_b` is for SenseVoice alone.
    """
    model, frontend = model or build_model(config.model), make_frontend(config.features, cmvn)

    def read(variables: Variables, wave_bn: jax.Array, wave_lengths_b: jax.Array, language_b=None) -> Read:
        inputs = frontend(wave_bn, wave_lengths_b) + (() if language_b is None else (language_b,))
        acoustics = model.apply(variables, *inputs, method="encode")
        duration_s_b = wave_lengths_b / config.features.sample_rate_hz
        return Read(acoustics.ctc_logits_btv, acoustics.frame_lengths_b, duration_s_b)

    return read


def make_best_path(config: Config, cmvn: Cmvn | None, model: nn.Module | None = None) -> Callable[..., Spelling]:
    """Return `best_path(variables, wave_bn, wave_lengths_b, automaton, language_b=None) → Spelling`.

    It has as many positions as there are frames. Without an automaton of hot words (None) the path is the greedy one.
    """
    read, find_times = make_read(config, cmvn, model), make_times(config)
    search = functools.partial(search_ctc, **search_options(config))

    def best_path(
        variables: Variables,
        wave_bn: jax.Array,
        wave_lengths_b: jax.Array,
        automaton: HotwordAutomaton | None,
        language_b: jax.Array | None = None,
    ) -> Spelling:
        heard = read(variables, wave_bn, wave_lengths_b, language_b)
        inputs = heard.logits_btv, heard.frame_lengths_b
        path = ctc_greedy(*inputs) if automaton is None else search(*inputs, automaton)
        spans = path.first_frame_bu, path.last_frame_bu, path.token_lengths_b
        times_bu = find_times(*spans, heard.frame_lengths_b, heard.duration_s_b)
        return Spelling(path.tokens_bu, path.confidence_bu, *times_bu, path.token_lengths_b)

    return best_path


def make_times(config: Config) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Return `times(first_bu, last_bu, token_lengths_b, frame_lengths_b, duration_s_b) → (start_s_bu, end_s_bu)`."""
    num_queries = num_query_frames(config)

    def times(first_bu, last_bu, token_lengths_b, frame_lengths_b, duration_s_b):
        # Queries are no sound: what they answer has no length, and stands at the start.
        alignment_but = spans_to_alignment(first_bu, last_bu, first_bu.shape[1])[:, :, num_queries:]
        frame_lengths_b = jnp.maximum(frame_lengths_b - num_queries, 0)
        grid = time_grid(config.features)
        return token_times(alignment_but, token_lengths_b, frame_lengths_b, duration_s_b, **grid)

    return times


def num_query_frames(config: Config) -> int:
    """Return how many frames that are no sound stand in front of an utterance's."""
    return NUM_QUERIES if config.model.name == "sense_voice" else 0


def language_rows(config: Config, languages: Sequence[str], batch_size: int) -> np.ndarray | None:
    """Return int32[b], the query of each row's language, "" or no name being the config's; None without queries."""
    if config.model.name != "sense_voice":
        return None
    names = [*languages, *[""] * (batch_size - len(languages))]
    return np.array([LANGUAGES[name or config.model.sense_voice.language] for name in names], np.int32)


class BestPathPrograms:
    """The best path of the CTC head, compiled ahead or when a shape is first met."""

    def __init__(
        self,
        config: Config,
        cmvn: Cmvn | None,
        variables: Variables,
        tokenizer: Tokenizer,
        model: nn.Module | None = None,
    ):
        self._config, self._automata = config, HotwordAutomata(tokenizer, config.inference.hotword_weight)
        self.weights = PackedWeights(config.model, variables)
        self._best_path = jax.jit(self.weights.reading(make_best_path(config, cmvn, model)))
        self._compiled: dict[tuple[Shape, int], jax.stages.Compiled] = {}

    def compilations(self, shape: Shape, hotwords: tuple[Hotword, ...] = ()) -> list[Callable[[], None]]:
        """Return what has to be called before batches of this shape, with hot words or without, need no compiler."""
        automaton = self._automata(hotwords)
        is_compiled = self._key(shape, automaton) in self._compiled
        return [] if is_compiled else [functools.partial(self._compile, shape, automaton)]

    def start(
        self,
        wave_bn: np.ndarray,
        wave_lengths_b: np.ndarray,
        hotwords: tuple[Hotword, ...] = (),
        languages: Sequence[str] = (),
    ) -> Callable[[], Spelling]:
        """Start recognising a batch; arguments and result as in `asr.inference.programs.CifPrograms.start`.

        `languages` names those of the rows, for SenseVoice; "": the config's.
        """
        shape, automaton = Shape(*wave_bn.shape), self._automata(hotwords)
        key = self._key(shape, automaton)
        if key not in self._compiled:
            self._compile(shape, automaton)
        language_b = language_rows(self._config, languages, shape.batch_size)
        spelling = self._compiled[key](self.weights.arrays, wave_bn, wave_lengths_b, automaton, language_b)
        return functools.partial(jax.device_get, spelling)

    def _compile(self, shape: Shape, automaton: HotwordAutomaton | None) -> None:
        language_b = language_rows(self._config, (), shape.batch_size)
        lowered = self._best_path.lower(self.weights.arrays, *abstract_sound(shape), automaton, language_b)
        self._compiled[self._key(shape, automaton)] = lowered.compile(self.weights.options)

    def _key(self, shape: Shape, automaton: HotwordAutomaton | None) -> tuple[Shape, int]:
        return shape, automaton.num_states if automaton else 0


class BeamPrograms:
    """The prefix beam search on the CTC head's output; the search itself runs on the host."""

    def __init__(
        self,
        config: Config,
        cmvn: Cmvn | None,
        variables: Variables,
        tokenizer: Tokenizer,
        model: nn.Module | None = None,
    ):
        settings = config.inference
        self._automata = HotwordAutomata(tokenizer, settings.hotword_weight)
        self.weights = PackedWeights(config.model, variables)
        self._config, self._beam_size = config, settings.beam_size
        language_model = read_arpa(Path(settings.language_model)) if settings.language_model else None
        self._fusion = make_fusion(language_model, tokenizer, settings.language_model_weight, settings.length_bonus)
        self._read = jax.jit(self.weights.reading(make_read(config, cmvn, model)))
        self._times = jax.jit(make_times(config))
        self._compiled: dict[Shape, tuple[jax.stages.Compiled, jax.stages.Compiled]] = {}

    def compilations(self, shape: Shape, hotwords: tuple[Hotword, ...] = ()) -> list[Callable[[], None]]:
        """Return what has to be called before batches of this shape need no compiler; hot words need none."""
        return [] if shape in self._compiled else [functools.partial(self._compile, shape)]

    def start(
        self,
        wave_bn: np.ndarray,
        wave_lengths_b: np.ndarray,
        hotwords: tuple[Hotword, ...] = (),
        languages: Sequence[str] = (),
    ) -> Callable[[], Spelling]:
        """Start recognising a batch; arguments and result as in `asr.inference.programs.CifPrograms.start`.

        `languages` names those of the rows, for SenseVoice; "": the config's.
        """
        shape, automaton = Shape(*wave_bn.shape), self._automata(hotwords)
        if shape not in self._compiled:
            self._compile(shape)
        read, times = self._compiled[shape]
        fusion = HotwordFusion(self._fusion, automaton) if automaton else self._fusion
        language_b = language_rows(self._config, languages, shape.batch_size)
        heard = read(self.weights.arrays, wave_bn, wave_lengths_b, language_b)
        return functools.partial(self._finish, heard, times, fusion)

    def _compile(self, shape: Shape) -> None:
        language_b = language_rows(self._config, (), shape.batch_size)
        read = self._read.lower(self.weights.arrays, *abstract_sound(shape), language_b).compile(self.weights.options)
        num_frames = max(num_feature_frames(shape.num_samples, self._config.features), 1)
        num_frames += num_query_frames(self._config)
        first_bu = jax.ShapeDtypeStruct((shape.batch_size, num_frames), jnp.int32)
        length_b, duration_s_b = (jax.ShapeDtypeStruct((shape.batch_size,), kind) for kind in (jnp.int32, jnp.float32))
        times = self._times.lower(first_bu, first_bu, length_b, length_b, duration_s_b).compile()
        self._compiled[shape] = read, times

    def _finish(self, heard: Read, times: Callable, fusion: Fusion | HotwordFusion) -> Spelling:
        heard = jax.device_get(heard)
        shape = heard.logits_btv.shape[:2]
        ids_bu, first_bu, last_bu = (np.zeros(shape, np.int32) for _ in range(3))
        confidence_bu, lengths_b = np.zeros(shape, np.float32), np.zeros(shape[0], np.int32)
        for row, num_frames in enumerate(heard.frame_lengths_b):
            logits_tv = heard.logits_btv[row, :num_frames]
            best, *_ = ctc_beam_search(logits_tv, beam_size=self._beam_size, fusion=fusion)
            spans, length = ctc_spans(logits_tv, best.tokens), len(best.tokens)
            ids_bu[row, :length], confidence_bu[row, :length] = best.tokens, spans.confidence_u
            first_bu[row, :length], last_bu[row, :length] = spans.first_frame_u, spans.last_frame_u
            lengths_b[row] = length
        start_s_bu, end_s_bu = times(first_bu, last_bu, lengths_b, heard.frame_lengths_b, heard.duration_s_b)
        return Spelling(ids_bu, confidence_bu, np.asarray(start_s_bu), np.asarray(end_s_bu), lengths_b)
