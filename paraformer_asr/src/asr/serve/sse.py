"""A transcript as server-sent events: each segment's text as soon as it is recognised.

With a punctuation model a word waits until its sign is decided, at most some twenty words later.

    data: {"type": "transcript.text.delta", "delta": "good "}

    data: {"type": "transcript.text.done", "text": "good morning", "usage": {…}}

    data: [DONE]

The deltas, joined, are the text. An error before the first event is an ordinary answer with its status; one after it is
an event `data: {"error": …}`.

Reference: OpenAI's interface; WHATWG, HTML, "Server-sent events".
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import Histogram
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from asr.inference.hotwords import Hotword
from asr.inference.transcription import GrowingTranscript
from asr.inference.words import Word, join_words
from asr.serve.background import in_background
from asr.serve.connected import while_connected
from asr.serve.decoding import Decoded
from asr.serve.engine import Engine
from asr.serve.formats import list_logprobs, to_json
from asr.serve.refusal import refusal_of

HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
"""The last one stops nginx from holding events back."""
END = b"data: [DONE]\n\n"

logger = logging.getLogger("asr.serve")


async def transcript_events(
    engine: Engine, decoded: Decoded, *, logprobs: bool, hotwords: tuple[Hotword, ...] = (), language: str = ""
) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the deltas of a sound while it is recognised, and at the end the whole text.

    Args:
        engine: of the service.
        decoded: the sound.
        logprobs: whether the events list their tokens.
        hotwords: to prefer.
        language: of the sound; "": the model's setting.
    """
    growing, num_words = GrowingTranscript(engine.transcriber), 0
    async with contextlib.aclosing(engine.recognise(decoded, hotwords=hotwords, language=language)) as recognitions:
        async for segment, recognition in recognitions:
            growing.add(segment.start, segment.start + len(segment.wave), recognition)
            await in_background(growing, growing.punctuate)
            for delta in _deltas(growing.written, num_words, logprobs):
                yield delta
            num_words = len(growing.written)
    transcript = await in_background(growing, growing.finish, decoded.num_samples, "")
    for delta in _deltas(transcript.words, num_words, logprobs):  # those that a punctuation model decides last
        yield delta
    extra = {"logprobs": list(list_logprobs(transcript.words))} if logprobs else {}
    inputs, outputs = math.ceil(transcript.duration_s), len(transcript.tokens)
    usage = {"type": "tokens", "input_tokens": inputs, "output_tokens": outputs, "total_tokens": inputs + outputs}
    yield {"type": "transcript.text.done", "text": transcript.text, **extra, "usage": usage}


def _deltas(words: Sequence[Word], start: int, logprobs: bool) -> Iterator[Mapping[str, Any]]:
    """Yield the event of the words from a place on, if there are any."""
    if delta := join_words(words)[len(join_words(words[:start])) :]:
        tokens = list_logprobs(words[start:], continues=start > 0)
        yield {"type": "transcript.text.delta", "delta": delta, **({"logprobs": list(tokens)} if logprobs else {})}


class EventStream(StreamingResponse):
    """An answer of events, whose status is that of the first one.

    Args:
        events: what to send.
        headers: of the answer.
        first_event_s: metric of the time until the first event.
    """

    def __init__(self, events: AsyncIterator[Mapping[str, Any]], headers: Mapping[str, str], first_event_s: Histogram):
        super().__init__(events, headers={**HEADERS, **headers})
        self._first_event_s = first_event_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until there are no more, or the client is gone."""
        async with contextlib.aclosing(self.body_iterator) as events:
            await while_connected(receive, self._send_all(events, send))

    async def _send_all(self, events: AsyncIterator[Mapping[str, Any]], send: Send) -> None:
        start = time.monotonic()
        event = await anext(events)  # an error of this one has a status of its own
        self._first_event_s.observe(time.monotonic() - start)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            while event is not None:
                await send({"type": "http.response.body", "body": encode_event(event), "more_body": True})
                event = await anext(events, None)
        except Exception as error:
            logger.error("a stream broke off (%s)", type(error).__name__)
            body = encode_event(json.loads(refusal_of(error).body))
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": END})


def encode_event(content: Mapping[str, Any]) -> bytes:
    """Return an event as it is sent."""
    return f"data: {to_json(content)}\n\n".encode()
