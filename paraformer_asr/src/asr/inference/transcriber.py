"""Transcribes sound with a trained model: its segments are recognised in batches of a few fixed shapes.

Letters: b batch, n samples, u tokens.
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from asr.config.streaming import Compat
from asr.data.sounds.sound_input import Sound, check_channel, open_sounds, place_in_list
from asr.errors import UserError
from asr.inference.hotword_memory import NO_PHRASE, list_unknown
from asr.inference.hotword_phrases import warn_of_unknown
from asr.inference.hotword_programs import BIASED_MODELS
from asr.inference.hotwords import Hotword, Hotwords, read_hotwords
from asr.inference.loading import load_parts
from asr.inference.recogniser import Recogniser
from asr.inference.shapes import Shape
from asr.inference.stream import Stream, open_stream, stream_settings
from asr.inference.stream_programs import StreamStep
from asr.inference.transcript import Transcript
from asr.inference.transcription import Source, read_segments, transcribe_segments
from asr.models import CustomModel, count_parameters

log = logging.getLogger("asr")


class Transcriber(Recogniser):
    """A trained model, ready to transcribe.

    Attributes:
        vad: a `VoiceActivityDetector` that cuts long sound; None: it is cut at its silences.
        punctuator: a `Punctuator` that adds signs; None: the text has those that the model writes.
        stream_steps: the compiled steps of streams, by their settings.
    """

    def __init__(self, *parts: Any, custom: CustomModel | None = None):
        super().__init__(*parts, custom=custom)
        self.vad = self.punctuator = None
        self.stream_steps: dict[Any, StreamStep] = {}

    def __repr__(self) -> str:
        number = count_parameters(self.weights.arrays["params"])
        return f"Transcriber({self.config.model.name}, {self.tokenizer.vocab_size} tokens, {number:,} parameters)"

    def warm_up(self, shapes: Sequence[Shape], hotwords: tuple[Hotword, ...] = ()) -> None:
        """Compile for these shapes; from now on a batch takes a different shape only if it fits none of them.

        With `hotwords` it is for batches with hot words.
        """
        super().warm_up(shapes, hotwords)
        if self.punctuator is not None and shapes:
            self.punctuator.warm_up()

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
