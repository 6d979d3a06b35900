"""One segment of a stream: the sound it is made of, the work that it asks for, and its text.

Neither computes: a work says what is needed, and its `take` turns the result into events.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from asr.errors import NonFiniteError
from asr.inference.recognition import Recognition
from asr.inference.segmentation import Segment
from asr.inference.sound_chunks import Chunk, SoundChunks
from asr.inference.stream_signs import StreamSigns
from asr.inference.stream_text import StreamText
from asr.inference.transcript import Transcript
from asr.inference.transcription import GrowingTranscript
from asr.inference.words import Token

if TYPE_CHECKING:
    from asr.inference.stream import StreamSession

LABEL = "stream"  # what its transcripts call the sound


@dataclasses.dataclass(frozen=True)
class StreamEvent:
    """What has been recognised.

    Attributes:
        text: what is new, and stays; all of them joined are the text of the stream.
        partial: the text of the segment so far; it only grows.
        token_ids: the tokens that came, special ones included.
        tokens: the ordinary ones, with confidence and times, in seconds from the start of the stream.
        heard_s: how much of the sound had been heard for it.
        final: the segment ends here.
        transcript: of a final event, what was said in the segment, by the second pass if there is one, and with signs
            if the transcriber has a punctuation model.
        punctuated: `partial`, with the signs that are decided so far if the punctuation model is one for streams.
    """

    text: str
    partial: str
    token_ids: tuple[int, ...] = ()
    tokens: tuple[Token, ...] = ()
    heard_s: float = 0.0
    final: bool = False
    transcript: Transcript | None = None
    punctuated: str = ""

    @property
    def start_s(self) -> float | None:
        """When the first of the tokens begins; None without one."""
        return self.tokens[0].start_s if self.tokens else None

    @property
    def end_s(self) -> float | None:
        """When the last of them ends."""
        return self.tokens[-1].end_s if self.tokens else None


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkWork:
    """A chunk for the model's step."""

    segment: "StreamSegment"
    chunk: Chunk
    heard_s: float  # how much of the sound had been heard

    def take(self, recognition: Recognition) -> list[StreamEvent]:
        """Return the events of the tokens that the step gave."""
        return self.segment.take_tokens(self, recognition)


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentWork:
    """A segment that has ended, for the second pass, in pieces that it takes."""

    segment: "StreamSegment"
    pieces: Sequence[Segment]
    heard_s: float

    def take(self, recognitions: Sequence[Recognition]) -> list[StreamEvent]:
        """Return the final event, made of the tokens of each piece."""
        return self.segment.take_second_pass(self, recognitions)


Work = ChunkWork | SegmentWork


class StreamSegment:
    """A stretch of a stream that begins with an empty state of the model.

    Attributes:
        start: its first sample, in the stream.
        stop: behind the last sample that it has heard.
    """

    def __init__(self, session: "StreamSession", start: int):
        self._session, self.start, self.stop = session, start, start
        self._chunks = SoundChunks(session.transcriber.config.features, session.layout)
        self._text = StreamText(session.transcriber.tokenizer)
        punctuator = session.transcriber.punctuator
        self._signs = StreamSigns(punctuator) if punctuator and punctuator.config.streaming else None
        self._wave: list[np.ndarray] = []  # all of the sound, for the second pass
        self._end = start  # behind the last sample of the segment, once it is known
        self._end_s = 0.0  # end of the last token, from the start of the segment

    def push(self, wave_n: np.ndarray) -> Iterator[ChunkWork]:
        """Yield the work of the chunks that these samples complete."""
        self.stop += len(wave_n)
        if self._session.second_pass is not None:
            self._wave.append(wave_n)
        for chunk in self._chunks.push(wave_n):
            yield self._work(chunk)

    def finish(self, stop: int) -> Iterator[ChunkWork | SegmentWork]:
        """Yield the work of the segment's end, which was at sample `stop`; sound behind it may have been heard."""
        self._end = stop
        for chunk in self._chunks.finish():
            yield self._work(chunk)
        if self._session.second_pass is not None:
            wave_n = np.concatenate([np.zeros(0, np.float32), *self._wave])[: stop - self.start]
            pieces, self._wave = self._session.pieces(self.start, wave_n), []
            yield SegmentWork(self, pieces, self._heard_s)

    def take_tokens(self, work: ChunkWork, recognition: Recognition) -> list[StreamEvent]:
        """Return the events of a step's tokens; times of `recognition` are from the start of the segment."""
        if not recognition.finite:
            raise NonFiniteError("stream: the model's output is not finite")
        if work.chunk.is_first:
            self._session.begin_segment()
        new = self._text.push(self._in_order(recognition, work.heard_s))
        ends = work.chunk.is_last and self._session.second_pass is None
        if not (new.text or new.token_ids or ends):
            return []
        transcript = self._transcript([(self.start, self._end, self._text.recognition)]) if ends else None
        start_s = self.start / self._session.rate_hz
        tokens = tuple(
            dataclasses.replace(token, start_s=start_s + token.start_s, end_s=start_s + token.end_s)
            for token in new.tokens
        )
        text = self._session.write(new.text)
        return [self._event(text, new.token_ids, tokens, work.heard_s, ends, transcript)]

    def take_second_pass(self, work: SegmentWork, recognitions: Sequence[Recognition]) -> list[StreamEvent]:
        """Return the final event."""
        places = [(piece.start, piece.start + len(piece.wave)) for piece in work.pieces]
        parts = [(*place, recognition) for place, recognition in zip(places, recognitions, strict=True)]
        transcript = self._transcript(parts)
        return [self._event("", heard_s=work.heard_s, final=True, transcript=transcript)]

    def _event(self, text: str, *fields, **named) -> StreamEvent:
        """Return an event with the text of the segment so far."""
        partial = self._text.text
        punctuated = self._signs.push(partial) if self._signs else partial
        return StreamEvent(text, partial, *fields, **named, punctuated=punctuated)

    def _in_order(self, recognition: Recognition, heard_s: float) -> Recognition:
        """Return the tokens with times behind those of the tokens before, and within the sound."""
        latest_s = heard_s - self.start / self._session.rate_hz
        start_u, end_u = (
            np.clip(times_u, self._end_s, latest_s) for times_u in (recognition.start_s, recognition.end_s)
        )
        self._end_s = float(end_u[-1]) if len(end_u) else self._end_s
        return dataclasses.replace(recognition, start_s=start_u, end_s=end_u)

    def _transcript(self, parts: Sequence[tuple[int, int, Recognition]]) -> Transcript:
        """Return the transcript of (first sample, behind the last, tokens) of each part."""
        first_pass = self._session.transcriber
        growing = GrowingTranscript(self._session.second_pass or first_pass, first_pass.punctuator)
        for start, stop, recognition in parts:
            growing.add(start, stop, recognition)
        return growing.finish(self._end, LABEL)

    def _work(self, chunk: Chunk) -> ChunkWork:
        return ChunkWork(self, chunk, self._heard_s)

    @property
    def _heard_s(self) -> float:
        return self._session.num_samples / self._session.rate_hz
