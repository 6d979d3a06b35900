"""FunASR's modes online and 2pass: frames with text while the client speaks.

    online          what is new, as it is recognised
    2pass-online    the same in mode 2pass
    2pass-offline   a segment that has ended, recognised as a whole: it replaces what was new since the one before

Every end is answered: if no text follows it, by an empty one. The last frame of an answer is final, unless an
acknowledgement follows.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from asr.inference.stream_segment import StreamEvent
from asr.inference.typesetting import needs_space
from asr.serve import funasr_frames as frames
from asr.serve.engine_errors import UnknownModeError
from asr.serve.funasr_frames import ConversationError, Request
from asr.serve.service import Service
from asr.serve.session import Event

BYTES_PER_SAMPLE = 2


class LiveSound:
    """One sound of a client, answered while it arrives.

    Attributes:
        writing: the task that answers; it fails if the stream does.

    Args:
        service: with a streaming model.
        request: what the client has stated about the sound.
        send: sends a frame.
        take_sound_s: called with the seconds of sound that arrive; may raise to refuse them.

    Raises:
        UnknownModeError: a mode that the service has no model for.
        ConversationError: the bytes of a file.
        Exception: those of `LiveEngine.open`.
    """

    def __init__(
        self,
        service: Service,
        request: Request,
        send: Callable[[dict[str, Any]], Awaitable[None]],
        take_sound_s: Callable[[float], None],
    ):
        self._request, self._send, self._take_sound_s = request, send, take_sound_s
        check_mode(service, request)
        self._session = service.live.open(request.rate_hz, request.mode == "2pass", request.hotwords)
        self._is_ending, self._before = False, ""  # text of the segments before
        self.writing = asyncio.create_task(self._write())
        self.writing.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )  # whoever waits for it sees it

    @property
    def has_sound(self) -> bool:
        """Whether sound was pushed that is not flushed."""
        return self._session.has_sound

    async def push(self, content: bytes) -> list[Event]:
        """Add a piece of the sound; its text is sent when it is known, and nothing is returned."""
        self._take_sound_s(len(content) / BYTES_PER_SAMPLE / self._request.rate_hz)
        await self._session.push(content)
        return []

    async def flush(self, request: Request) -> None:
        """End the sound, and return when all of its text was sent; `request` is as the client's last frame left it."""
        self._request, self._is_ending = request, True
        await self.finish()

    async def finish(self) -> None:
        """Send what is still to be said, as the server stops; no frame of it is final."""
        await self._session.flush()
        await self.writing
        self.close()

    def close(self) -> None:
        """Forget what was not sent."""
        self.writing.cancel()
        self._session.close()

    async def _write(self) -> None:
        """Send frames; from the end on the last one is held back until it is known to be the last."""
        last = None
        async for event in self._session.events():
            for frame in self._frames(event):
                if last:
                    await self._send(last)
                last = frame if self._is_ending else None
                if not last:
                    await self._send(frame)
        if self._is_ending:
            last = last or self._frame(_mode_of_end(self._request), "")
            await self._send(last | {"is_final": not self._request.wants_end} | self._warning())

    def _frames(self, event: StreamEvent) -> list[dict[str, Any]]:
        """Return the frames of an event: none if it brings no text."""
        if self._request.mode == "online":
            return [self._frame("online", event.text)] if event.text else []
        online = [self._frame("2pass-online", event.text)] if event.text else []
        return [*online, self._segment_frame(event)] if event.final else online

    def _segment_frame(self, event: StreamEvent) -> dict[str, Any]:
        """Return the frame of a segment, with a blank before its text where the segment before ends in a word."""
        frame = frames.text_frame(self._request, Event(event.transcript, is_final=False))
        text = frame["text"]
        blank = " " if needs_space(self._before, text) else ""
        self._before = text or self._before
        return frame | {"mode": "2pass-offline", "text": blank + text}

    def _frame(self, mode: str, text: str) -> dict[str, Any]:
        return {"mode": mode, "wav_name": self._request.wav_name, "text": text, "is_final": False}

    def _warning(self) -> dict[str, str]:
        if self._request.hotwords and self._request.mode == "online":
            return {"warning": "mode online prefers no hot words; mode 2pass does"}
        return {}


def check_mode(service: Service, request: Request) -> None:
    """Refuse a mode that the service has no model for, and files, which are not spoken live."""
    mode = request.mode
    if service.live is None:
        raise UnknownModeError(f"mode {mode}: this server was started without --streaming FOLDER; use mode offline")
    if mode == "2pass" and not service.live.has_second_pass:
        raise UnknownModeError("mode 2pass: this server was started without --vad FOLDER; use mode online")
    if request.is_file:
        raise ConversationError(frames.BAD_DATA, f"mode {mode} takes wav_format pcm; send a file in mode offline")


def _mode_of_end(request: Request) -> str:
    """Return the mode of an empty text at the end."""
    return "2pass-offline" if request.mode == "2pass" else request.mode
