"""The sound that a client of the realtime interface appends up to a commit, and the items that its text becomes.

Without turn detection it is one item. With it, each stretch of speech that the detector finds is one; the commit ends
the last. New text is sent as soon as it is recognised, so that an item's first deltas come before its commit.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from asr.inference.stream_segment import StreamEvent
from asr.inference.typesetting import needs_space
from asr.serve.inbox import cancelled
from asr.serve.live_session import LiveSession
from asr.serve.realtime_events import completed_event, delta_event, item_event, make_id

BYTES_PER_SAMPLE = 2
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclasses.dataclass
class Item:
    """What is said in one turn.

    Attributes:
        start_s: when it begins, from the start of the turn's sound.
        text: of its segments that have ended.
        has_delta: new text was sent for it.
    """

    id: str
    start_s: float
    text: str = ""
    has_delta: bool = False

    def delta(self, text: str) -> dict[str, Any]:
        """Return the event for new text of the stream; the blank before a segment is not its item's."""
        delta, self.has_delta = text if self.has_delta else text.lstrip(), True
        return delta_event(self.id, delta)

    def add(self, text: str) -> None:
        """Add the text of a segment."""
        self.text += f" {text}" if needs_space(self.text.rsplit(" ", 1)[-1], text) else text


class Turn:
    """Sound from the first that is appended to the commit.

    Args:
        session: recognises it.
        send: sends an event to the client.
        rate_hz: of its samples.
        detects_turns: each segment is an item.
        start_s: where the sound begins in that of the client.
        last_id: the item before it; None for the first.

    Attributes:
        last_id: the latest item that was committed.
        num_items: that were completed.
        writing: the task that answers; it fails if the stream does.
    """

    def __init__(
        self,
        session: LiveSession,
        send: Send,
        rate_hz: int,
        *,
        detects_turns: bool,
        start_s: float = 0.0,
        last_id: str | None = None,
    ):
        self.last_id, self.num_items = last_id, 0
        self._session, self._send, self._rate_hz, self._detects = session, send, rate_hz, detects_turns
        self._start_s, self._num_bytes = start_s, 0
        self._item = None if detects_turns else Item(make_id("item"), 0.0)
        self.writing = asyncio.create_task(self._write())

    @property
    def end_s(self) -> float:
        """Where the sound so far ends in that of the client."""
        return self._start_s + self._num_bytes / BYTES_PER_SAMPLE / self._rate_hz

    async def push(self, content: bytes) -> None:
        """Recognise more sound."""
        self._num_bytes += len(content)
        await self._session.push(content)

    async def commit(self) -> None:
        """End the sound; returns when its last text has been sent."""
        if not self._detects:
            await self._commit_item()
        await self._session.flush()
        await self.writing
        if not self._detects:
            await self._complete_item(self.end_s - self._start_s)

    async def close(self) -> None:
        """Drop what is not recognised."""
        self._session.close()
        await cancelled(self.writing)

    async def _write(self) -> None:
        async for event in self._session.events():
            if self._item is None and (event.text or event.final and event.transcript.text):
                await self._begin_item(event)
            if event.text:
                await self._send(self._item.delta(event.text))
            if event.final and self._item:
                self._item.add(event.transcript.text)
                if self._detects:
                    await self._end_item(event.transcript.duration_s)

    async def _begin_item(self, event: StreamEvent) -> None:
        """Begin the item of a segment in which the first text has come."""
        start_s = event.start_s
        if start_s is None:  # only the second pass heard something
            start_s = event.transcript.words[0].start_s if event.transcript.words else event.heard_s
        self._item = Item(make_id("item"), start_s)
        await self._send(self._speech("started", "start", start_s))

    async def _end_item(self, end_s: float) -> None:
        """Commit and complete the item of a segment."""
        await self._send(self._speech("stopped", "end", end_s))
        await self._commit_item()
        await self._complete_item(end_s - self._item.start_s)
        self._item = None

    async def _commit_item(self) -> None:
        committed = {"type": "input_audio_buffer.committed", "item_id": self._item.id}
        await self._send(committed | {"previous_item_id": self.last_id})
        await self._send(item_event("conversation.item.added", self._item.id, self.last_id))

    async def _complete_item(self, seconds: float) -> None:
        item = self._item
        await self._send(completed_event(item.id, item.text, seconds))
        await self._send(item_event("conversation.item.done", item.id, self.last_id, transcript=item.text))
        self.last_id, self.num_items = item.id, self.num_items + 1

    def _speech(self, what: str, edge: str, time_s: float) -> dict[str, Any]:
        """Return the event that speech started or stopped, at a time from the start of the turn's sound."""
        time_ms = round(1000 * (self._start_s + time_s))
        event = {"type": f"input_audio_buffer.speech_{what}", "item_id": self._item.id}
        return event | {f"audio_{edge}_ms": time_ms}
