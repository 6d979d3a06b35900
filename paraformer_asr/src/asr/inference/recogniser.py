"""Recognises segments of sound with a trained model: in batches of a few fixed shapes, compiled once.

Letters: b batch, n samples, u tokens.
"""

import dataclasses
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import chex
import numpy as np

from asr.compiler import CompilationCounter
from asr.config import Config
from asr.data.frontend import Cmvn, num_feature_frames
from asr.data.text.tokenizer import Tokenizer
from asr.inference.decoders import make_programs
from asr.inference.failing import start_safely
from asr.inference.hotwords import Hotword
from asr.inference.recognition import NOTHING, Recognition, recognition_of
from asr.inference.segmentation import longest_segment
from asr.inference.shapes import Shape, make_ladder, whole_seconds
from asr.inference.tuning import PackedWeights, ready_weights
from asr.models import LANGUAGES, CustomModel, build_model

Tag = TypeVar("Tag")

MAX_COMPILING_THREADS = 8
WINDOW_BATCHES = 4
"""Batches to read before sorting by length: more of them give less padding, for more memory and delay."""


class Recogniser:
    """A trained model and its compiled programs.

    Attributes:
        config: settings of the run, of which `features`, `model` and `inference` matter here.
        tokenizer: of the model.
        cmvn: of its features.
        model: the network.
        custom_model: the network or its class, if it comes from outside the package.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        cmvn: Cmvn | None,
        variables: Any,
        *,
        custom: CustomModel | None = None,
    ):
        self._counter = CompilationCounter()
        weakref.finalize(self, self._counter.close).atexit = False
        config, variables = ready_weights(config, variables)
        self.model, self.custom_model = build_model(config.model, custom), custom
        self.config, self.tokenizer, self.cmvn = config, tokenizer, cmvn
        self._programs = make_programs(config, tokenizer, cmvn, variables, self.model)
        longest = longest_segment(config.features.sample_rate_hz, config.inference)
        self._ladder = make_ladder(longest, [1, config.inference.batch_size])
        self._warm: tuple[Shape, ...] = ()

    @property
    def weights(self) -> PackedWeights:
        """The weights, as the programs read them."""
        return self._programs.weights

    @property
    def variables(self) -> Any:
        """The weights in the layout of the model; a copy if the programs read a different one."""
        return self.weights.variables

    @property
    def window_size(self) -> int:
        """Segments to read before sorting by length and recognising."""
        return WINDOW_BATCHES * self.config.inference.batch_size

    @property
    def compilations(self) -> int:
        """Number of programs that jax compiled in this process since the transcriber was created."""
        return self._counter.count

    def warm_up(self, shapes: Sequence[Shape], hotwords: tuple[Hotword, ...] = ()) -> None:
        """Compile for these shapes; from now on a batch takes a different shape only if it fits none of them.

        With `hotwords` it is for batches with hot words.
        """
        compilations = [compile for shape in shapes for compile in self._programs.compilations(shape, hotwords)]
        with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_COMPILING_THREADS)) as pool:
            list(pool.map(lambda compile: compile(), compilations))
        self._warm = tuple(shapes)

    def recognise(self, wave: np.ndarray) -> Recognition:
        """Return the tokens of a segment float32[n] in −1…1; below `longest_segment` for speed and memory."""
        ((_, recognition),) = self.recognise_many([(None, wave)])
        return recognition

    def recognise_many(
        self,
        items: Iterable[tuple[Tag, np.ndarray]],
        hotwords: tuple[Hotword, ...] = (),
        *,
        keep_failures: bool = False,
    ) -> Iterator[tuple[Tag, Recognition]]:
        """Yield (tag, tokens) for each (tag, wave), in order.

        A window of a few batches is read, sorted by length and cut into batches. Sound shorter than one frame costs
        nothing. An utterance gives the same tokens in any batch. With `keep_failures` a segment on which the device
        fails is a recognition with its `failure`, instead of an exception.
        """
        for window in self._windows(items):
            recognitions = self._recognise_window([wave for _, wave in window], hotwords, keep_failures)
            yield from zip((tag for tag, _ in window), recognitions, strict=True)

    def _windows(self, items: Iterable[tuple[Tag, np.ndarray]]) -> Iterator[list[tuple[Tag, np.ndarray]]]:
        window, room = [], self.window_size
        for tag, wave in items:
            chex.assert_rank(wave, 1)
            chex.assert_type(wave, np.float32)
            window.append((tag, wave))
            room -= bool(len(wave))
            if not room:
                yield window
                window, room = [], self.window_size
        yield window

    def _recognise_window(
        self, waves: list[np.ndarray], hotwords: tuple[Hotword, ...], keep_failures: bool
    ) -> list[Recognition]:
        """Return the tokens of each; all batches are started before waiting for the first."""
        recognitions = [NOTHING] * len(waves)
        sounding = [i for i, wave in enumerate(waves) if num_feature_frames(len(wave), self.config.features)]
        sounding.sort(key=lambda i: -len(waves[i]))
        groups = [sounding[i : i + self._batch_size] for i in range(0, len(sounding), self._batch_size)]
        start = self._start_safely if keep_failures else self.start
        started = [(group, start([waves[i] for i in group], hotwords)) for group in groups]
        for group, finish in started:
            for i, recognition in zip(group, finish(), strict=True):
                recognitions[i] = recognition
        return recognitions

    def _start_safely(
        self, waves: Sequence[np.ndarray], hotwords: tuple[Hotword, ...]
    ) -> Callable[[], list[Recognition]]:
        start = functools.partial(self.start, hotwords=hotwords)
        return start_safely(start, waves, lambda error: dataclasses.replace(NOTHING, failure=error))

    @property
    def _batch_size(self) -> int:
        return max(shape.batch_size for shape in self._warm or self._ladder)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that a sound can be stated to have; none if the model takes no language."""
        return tuple(LANGUAGES) if self.config.model.name == "sense_voice" else ()

    def start(
        self, waves: Sequence[np.ndarray], hotwords: tuple[Hotword, ...] = (), languages: Sequence[str] = ()
    ) -> Callable[[], list[Recognition]]:
        """Start recognising one batch; return the function that waits for the tokens of each wave.

        Args:
            waves: float32[n] in −1…1 each, of at least one frame.
            hotwords: to prefer in all of them.
            languages: of each, one of `languages` or "" for the config's; none: the config's for all.
        """
        shape = self.choose_shape(len(waves), max(map(len, waves)))
        wave_bn, lengths_b = np.zeros(dataclasses.astuple(shape), np.float32), np.zeros(shape.batch_size, np.int32)
        for row, wave in enumerate(waves):
            wave_bn[row, : len(wave)], lengths_b[row] = wave, len(wave)
        finish = self._programs.start(wave_bn, lengths_b, hotwords, *([languages] if self.languages else []))

        def rows() -> list[Recognition]:
            spelling = finish()
            return [recognition_of(spelling, row) for row in range(len(waves))]

        return rows

    def choose_shape(self, batch_size: int, num_samples: int) -> Shape:
        """Return the smallest shape that a batch fits into, preferably one that is compiled."""
        for shapes in (self._warm, self._ladder):
            fitting = [s for s in shapes if s.batch_size >= batch_size and s.num_samples >= num_samples]
            if fitting:
                return min(fitting, key=lambda s: s.batch_size * s.num_samples)
        return Shape(batch_size, whole_seconds(num_samples, self.config.features.sample_rate_hz))
