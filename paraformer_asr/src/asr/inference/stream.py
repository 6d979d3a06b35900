"""Speech as it is spoken: sound in, events with text out.

    stream = transcriber.stream()
    for samples in pieces:
        for event in stream.push(samples):
            print(event.text, end="")
    for event in stream.finish():
        print(event.text, end="")

`StreamSession` holds the rules and computes nothing itself: it says what is to be computed, and turns the results into
events. So a server computes for all of its streams at once; a `Stream` computes for one.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import soxr

from asr.config import ChunkLayout, StreamingConfig
from asr.config.reader import override_config
from asr.config.streaming import Compat
from asr.data.sounds.samples import check_samples
from asr.data.sounds.sound_input import check_rate
from asr.errors import UserError
from asr.inference.segmentation import Segment, cut_to_length
from asr.inference.stream_programs import StreamPrograms, StreamStep
from asr.inference.stream_segment import ChunkWork, SegmentWork, StreamSegment, Work
from asr.inference.stream_segment import StreamEvent as StreamEvent
from asr.inference.typesetting import needs_space

if TYPE_CHECKING:
    from asr.inference.transcriber import Transcriber

BLOCK_MS = 60
"""Sound is looked at in blocks of this length: where a segment starts and ends does not depend on the calls."""
SLOT = 0  # of the only stream of a program


class StreamSession:
    """The rules of one stream.

    With a voice activity detector each stretch of speech is a segment and begins with an empty state of the model;
    without one all of the sound is one segment. The end of speech is known some time later; the model hears on until
    then, the second pass does not.

    Attributes:
        text: of all segments so far.
    """

    def __init__(
        self,
        transcriber: "Transcriber",
        layout: ChunkLayout,
        second_pass: "Transcriber | None" = None,
        rate: float | None = None,
    ):
        self.transcriber, self.layout, self.second_pass = transcriber, layout, second_pass
        self.rate_hz = transcriber.config.features.sample_rate_hz
        check_parts(transcriber, second_pass, self.rate_hz)
        if rate is not None:
            check_rate(rate)
        self._resampled = (
            soxr.ResampleStream(rate, self.rate_hz, 1, "float32") if rate not in (None, self.rate_hz) else None
        )
        self._detector = transcriber.vad.stream() if transcriber.vad else None
        self._block = BLOCK_MS * self.rate_hz // 1000
        self._waiting_n = np.zeros(0, np.float32)  # less than a block
        self._recent_n, self._recent_start = np.zeros(0, np.float32), 0  # sound that a segment may still need
        self.num_samples, self.text = 0, ""
        self._segment_is_new, self._ended = True, False
        self._segment = None if self._detector else StreamSegment(self, 0)

    def accept(self, samples: np.ndarray, *, final: bool = False) -> Iterator[Work]:
        """Return what is to be computed for the next samples, in order; each `work.take(result)` gives its events.

        Raises:
            UserError: not such samples, or the stream has ended; nothing has changed then.
        """
        if self._ended:
            raise UserError("the stream has ended: transcriber.stream() begins a new one")
        wave_n = check_samples(samples)
        self._ended = final
        if self._resampled:
            wave_n = self._resampled.resample_chunk(wave_n, last=final)
        return self._accept(wave_n, final)

    def write(self, text: str) -> str:
        """Return a segment's new text as it continues that of the stream, with a blank where a segment begins."""
        if text and self.text and self._segment_is_new and needs_space(self.text.rsplit(" ", 1)[-1], text):
            text = f" {text}"
        self._segment_is_new = self._segment_is_new and not text
        self.text += text
        return text

    def begin_segment(self) -> None:
        """Note that the next text is of another segment."""
        self._segment_is_new = True

    def pieces(self, start: int, wave_n: np.ndarray) -> list[Segment]:
        """Return a segment in pieces that the second pass takes."""
        settings = self.second_pass.config.inference
        return list(cut_to_length(Segment(start, wave_n), self.rate_hz, settings))

    def _accept(self, wave_n: np.ndarray, final: bool) -> Iterator[Work]:
        self._waiting_n = np.concatenate([self._waiting_n, wave_n])
        while len(self._waiting_n) >= self._block:
            block_n, self._waiting_n = self._waiting_n[: self._block], self._waiting_n[self._block :]
            yield from self._hear(block_n, False)
        if final:
            block_n, self._waiting_n = self._waiting_n, np.zeros(0, np.float32)
            yield from self._hear(block_n, True)

    def _hear(self, block_n: np.ndarray, final: bool) -> Iterator[Work]:
        """Yield the work of a block."""
        self.num_samples += len(block_n)
        if self._detector is None:
            yield from self._segment.push(block_n)
            if final:
                yield from self._segment.finish(self.num_samples)
            return
        self._recent_n = np.concatenate([self._recent_n, block_n])
        for event in self._detector.accept(block_n, final):
            sample = min(event.time_ms * self.rate_hz // 1000, self.num_samples)
            if event.kind == "start":
                self._segment = StreamSegment(self, sample)
            else:
                yield from self._segment.push(self._recent(sample))
                yield from self._segment.finish(sample)
                self._segment = None
        if self._segment:
            yield from self._segment.push(self._recent(self.num_samples))
        self._forget()

    def _recent(self, stop: int) -> np.ndarray:
        """Return the sound that the open segment has not heard, up to a sample."""
        start = self._segment.stop - self._recent_start
        return self._recent_n[start : max(stop - self._recent_start, start)]

    def _forget(self) -> None:
        """Drop the sound that no segment will need: the next one may begin before the end of this one is noticed."""
        first_free = self._detector.earliest_start_ms * self.rate_hz // 1000
        keep = min(first_free, self._segment.stop if self._segment else self.num_samples)
        drop = max(keep - self._recent_start, 0)
        self._recent_n, self._recent_start = self._recent_n[drop:], self._recent_start + drop


def check_parts(transcriber: "Transcriber", second_pass: "Transcriber | None", rate_hz: int) -> None:
    """Refuse models that do not work together in a stream."""
    if second_pass is not None and transcriber.vad is None:
        raise UserError("stream: a second pass needs to know where a segment ends: load the model with vad=FOLDER")
    parts = {"vad": transcriber.vad, "second_pass": second_pass and second_pass.config}
    for name, part in parts.items():
        if part is not None and (own_hz := part.features.sample_rate_hz) != rate_hz:
            raise UserError(f"stream: {name}: expected a model for {rate_hz} Hz, found one for {own_hz} Hz")


def stream_settings(
    transcriber: "Transcriber",
    chunk_size: Sequence[int] | None = None,
    encoder_look_back: int | None = None,
    decoder_look_back: int | None = None,
    compat: Compat | None = None,
) -> StreamingConfig:
    """Return the settings of streams: those of the model, with these changes. Arguments as of `Transcriber.stream`."""
    model = transcriber.config.model
    if model.name != "streaming":
        raise UserError(f"stream: expected a model of the kind streaming, found one of the kind {model.name}")
    chunk_size = list(chunk_size) if isinstance(chunk_size, Iterable) else chunk_size
    changes = {"chunk_size": chunk_size, "compat": compat}
    changes |= {"encoder_look_back": encoder_look_back, "decoder_look_back": decoder_look_back}
    overrides = [f"model.streaming.{name}={value}" for name, value in changes.items() if value is not None]
    return override_config(transcriber.config, overrides).model.streaming


def open_stream(
    transcriber: "Transcriber",
    settings: StreamingConfig,
    second_pass: "Transcriber | None" = None,
    rate: float | None = None,
) -> "Stream":
    """Return a new stream; arguments as of `Transcriber.stream`."""
    session = StreamSession(transcriber, settings.layout, second_pass, rate)
    return Stream(session, stream_programs(transcriber, settings))


def stream_programs(transcriber: "Transcriber", settings: StreamingConfig, num_slots: int = 1) -> StreamPrograms:
    """Return the step for `num_slots` streams at a time, and an empty state of them."""
    key = settings.layout, num_slots
    if key not in transcriber.stream_steps:
        model = dataclasses.replace(transcriber.config.model, streaming=settings)
        config = dataclasses.replace(transcriber.config, model=model)
        transcriber.stream_steps[key] = StreamStep(config, transcriber.cmvn, transcriber.weights, num_slots)
    return StreamPrograms(transcriber.stream_steps[key])


class Stream:
    """One stream, of a `Transcriber`. Any number may be open; each has a state of its own."""

    def __init__(self, session: StreamSession, programs: "StreamPrograms"):
        self._session, self._programs = session, programs

    @property
    def text(self) -> str:
        """The text so far."""
        return self._session.text

    def warm_up(self) -> None:
        """Compile the step, and the programs of the detector and the punctuation model; not those of a second pass."""
        self._programs.warm_up()
        for part in (self._session.transcriber.vad, self._session.transcriber.punctuator):
            if part is not None:
                part.warm_up()

    def push(self, samples: np.ndarray) -> list[StreamEvent]:
        """Return what the next samples bring.

        Args:
            samples: one channel at the rate of the stream, of any length: int16, or floats in −1…1.

        Raises:
            UserError: not such samples, or the stream has ended; the stream is as it was.
            NonFiniteError: what the model computed is not finite.
        """
        return self._compute(self._session.accept(samples))

    def finish(self) -> list[StreamEvent]:
        """Return what the end of the sound brings.

        The last event is final. With a detector there is none if no segment is open.
        """
        return self._compute(self._session.accept(np.zeros(0, np.float32), final=True))

    def _compute(self, works: Iterator[Work]) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for work in works:
            if isinstance(work, ChunkWork):
                result = self._programs.run({SLOT: work.chunk})[SLOT]
            else:
                result = recognise_pieces(self._session.second_pass, work)
            events += work.take(result)
        return events


def recognise_pieces(second_pass: "Transcriber", work: SegmentWork):
    """Return the tokens of each piece of a segment."""
    return [second_pass.recognise(piece.wave) for piece in work.pieces]
