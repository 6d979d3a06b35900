"""A live engine that computes nothing: a word for each tenth of a second of sound, silence ends a segment."""

import asyncio

import numpy as np

from asr.inference.stream_segment import StreamEvent
from asr.inference.transcript import Transcript
from asr.inference.words import Token

WORD_S = 0.1


class FakeLive:
    """Words of a stream are w0, w1, …; the second pass writes them in capitals.

    Attributes:
        sessions: that were opened.
        error: that `push` raises.
    """

    def __init__(self, *, has_second_pass=False):
        self.has_second_pass, self.sessions, self.error = has_second_pass, [], None

    def open(self, rate_hz, second_pass):
        assert second_pass == self.has_second_pass
        self.sessions.append(FakeSession(self, rate_hz))
        return self.sessions[-1]


class FakeSession:
    def __init__(self, live, rate_hz):
        self.live, self.rate_hz, self.is_closed = live, rate_hz, False
        self._queue, self._content, self._num_words, self._text, self._segment = asyncio.Queue(), b"", 0, "", []

    @property
    def heard_s(self):
        return self._num_words * WORD_S

    async def push(self, content):
        if self.live.error:
            raise self.live.error
        self._content += content
        size = 2 * round(WORD_S * self.rate_hz)
        while len(self._content) >= size:
            block, self._content = self._content[:size], self._content[size:]
            self._hear(np.frombuffer(block, "<i2"))

    def _hear(self, block):
        word, start_s = f"w{self._num_words}", self.heard_s
        self._num_words += 1
        if not block.any():
            self._end_segment()
            return
        text = f" {word}" if self._text else word
        self._text, self._segment = self._text + text, [*self._segment, word]
        tokens = (Token(word, start_s, self.heard_s, 1.0),)
        self._queue.put_nowait(StreamEvent(text, " ".join(self._segment), (1,), tokens, self.heard_s))

    def _end_segment(self):
        text, self._segment = " ".join(self._segment), []
        transcript = Transcript("stream", self.heard_s, text.upper() if self.live.has_second_pass else text)
        self._queue.put_nowait(StreamEvent("", text, heard_s=self.heard_s, final=True, transcript=transcript))

    async def flush(self):
        self._end_segment()
        self._queue.put_nowait(None)

    async def events(self):
        while (event := await self._queue.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    def fail(self, error):
        self._queue.put_nowait(error)

    def close(self):
        self.is_closed = True
