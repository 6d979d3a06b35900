"""Transcribes sound with a trained model: its segments are recognised in batches of a few fixed shapes.

Letters: b batch, n samples, u tokens.
"""

import dataclasses
import functools
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, overload

import chex
import numpy as np

from asr.compiler import CompilationCounter
from asr.config import Config
from asr.config.streaming import Compat
from asr.data.frontend import Cmvn, num_feature_frames
from asr.data.sounds.sound_input import Sound, check_channel, open_sounds, place_in_list
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.inference.decoders import make_programs
from asr.inference.failing import start_safely
from asr.inference.hotword_memory import NO_PHRASE, list_unknown
from asr.inference.hotword_phrases import warn_of_unknown
from asr.inference.hotword_programs import BIASED_MODELS
from asr.inference.hotwords import Hotword, Hotwords, read_hotwords
from asr.inference.loading import load_parts
from asr.inference.recognition import NOTHING, Recognition, recognition_of
from asr.inference.segmentation import longest_segment
from asr.inference.shapes import Shape, make_ladder, whole_seconds
from asr.inference.stream import Stream, open_stream, stream_settings
from asr.inference.stream_programs import StreamStep
from asr.inference.transcript import Transcript
from asr.inference.transcription import Source, read_segments, transcribe_segments
from asr.inference.tuning import PackedWeights, ready_weights
from asr.models import LANGUAGES, CustomModel, build_model, count_parameters

log = logging.getLogger("asr")

Tag = TypeVar("Tag")

MAX_COMPILING_THREADS = 8
WINDOW_BATCHES = 4
"""Batches to read before sorting by length: more of them give less padding, for more memory and delay."""


class Transcriber:
    """A trained model, ready to transcribe.

    Attributes:
        config: settings of the run, of which `features`, `model` and `inference` matter here.
        tokenizer: of the model.
        cmvn: of its features.
        model: the network.
        custom_model: the network or its class, if it comes from outside the package.
        vad: a `VoiceActivityDetector` that cuts long sound; None: it is cut at its silences.
        punctuator: a `Punctuator` that adds signs; None: the text has those that the model writes.
        stream_steps: the compiled steps of streams, by their settings.
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
        self.vad = self.punctuator = None
        self.stream_steps: dict[Any, StreamStep] = {}

    def __repr__(self) -> str:
        number = count_parameters(self.weights.arrays["params"])
        return f"Transcriber({self.config.model.name}, {self.tokenizer.vocab_size} tokens, {number:,} parameters)"

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
        if self.punctuator is not None and shapes:
            self.punctuator.warm_up()
        self._warm = tuple(shapes)

    @overload
    def transcribe(
        self,
        sound: Sound,
        rate: float | None = None,
        hotwords: Hotwords | None = None,
        *,
        channel: int | None = None,
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        sound: Sequence[Sound],
        rate: float | None = None,
        hotwords: Hotwords | None = None,
        *,
        channel: int | None = None,
    ) -> list[Transcript]: ...

    def transcribe(self, sound, rate=None, hotwords=None, *, channel=None):
        """Return what is said in a sound of any length: text, words and tokens with times and confidence.

        Long sound is cut at its silences. The confidence of a token is the model's probability; a word has that of its
        least certain token. With a punctuator the text has signs and sentences. A segment on which the device fails is
        among the transcript's `failures`, and the rest is there.

        Args:
            sound: a path, an open binary file, the bytes of a file, an array [samples] or [samples, channels] of
                integers or floats in −1…1, or a list of these, whose segments share batches.
            rate: samples in a second of an array, or of the arrays in a list.
            hotwords: phrases to prefer: a list, a string with commas, or a file of them, see docs/hotwords.md. Parts of
                them that the model cannot write are logged as a warning.
            channel: the channel to read, from 1; 0: their mean; None: as `data.channel` says.

        Returns:
            the transcript, or for a list one transcript each.

        Raises:
            UserError: naming the sound or the hot words that cannot be read, or the sound of which no segment could be
                recognised, and what to do.
        """
        hotwords = self.read_hotwords(hotwords)
        several = isinstance(sound, list | tuple)
        inputs = open_sounds(sound if several else [sound], rate)
        rate_hz = self.config.features.sample_rate_hz
        channel = self.config.data.channel if channel is None else check_channel(channel)
        sources = [Source(functools.partial(each.blocks, rate_hz, channel), each.label) for each in inputs]
        transcripts = []
        for number, outcome in enumerate(transcribe_segments(self, read_segments(self, sources), hotwords), 1):
            if outcome.error:
                raise UserError(f"{place_in_list(number, len(inputs))}{outcome.error}")
            transcripts.append(outcome.transcript)
        return transcripts if several else transcripts[0]

    def stream(
        self,
        *,
        chunk_size: Sequence[int] | None = None,
        encoder_look_back: int | None = None,
        decoder_look_back: int | None = None,
        compat: Compat | None = None,
        second_pass: "Transcriber | None" = None,
        rate: float | None = None,
    ) -> Stream:
        """Return a new stream of a model of the kind streaming: speech is recognised while it is spoken.

        With a voice activity detector each stretch of speech is a segment with a final event; without one all of the
        sound is. The first stream with new settings compiles its step. docs/streaming.md describes the settings.

        Args:
            chunk_size: frames of (left context, chunk, look-ahead), and with the others that of the config by default.
            encoder_look_back: earlier chunks that the encoder attends to; -1: all.
            decoder_look_back: the same of the decoder.
            compat: "funasr": its arithmetic and answers, faults included.
            second_pass: recognises each segment again, as a whole, when it has ended.
            rate: samples in a second of what the stream takes; None: the model's.

        Raises:
            UserError: a model of another kind, or settings that cannot be used.
        """
        settings = stream_settings(self, chunk_size, encoder_look_back, decoder_look_back, compat)
        return open_stream(self, settings, second_pass, rate)

    def read_hotwords(self, hotwords: Hotwords | None) -> tuple[Hotword, ...]:
        """Return hot words as `asr.inference.hotwords.read_hotwords` does, and log what this model cannot write.

        An empty list is not None to a network that was trained with hot words: it compares with "no hot word" then.
        """
        phrases, is_biased = read_hotwords(hotwords), self.config.model.name in BIASED_MODELS
        if warning := (list_unknown if is_biased else warn_of_unknown)(self.tokenizer, phrases):
            log.warning(warning)
        return (NO_PHRASE,) if is_biased and not phrases and hotwords is not None else phrases

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


def load_transcriber(
    folder: str | Path,
    which: str = "best",
    overrides: Sequence[str] = (),
    average: int = 1,
    custom: CustomModel | None = None,
) -> Transcriber:
    """Return the transcriber of a run directory or a model folder; arguments as in `load_parts`."""
    config, *parts = load_parts(folder, which, overrides, average, custom)
    return Transcriber(config, *parts, custom=custom)
