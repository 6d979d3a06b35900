"""FunASR's websocket protocol on `/` and `/v1/stream`: a frame of settings, the sound, a frame that ends it, the text.

The next sound may follow on the same connection. After a text the client closes; if it neither does so nor begins a new
sound, the server closes. What goes wrong is answered in a frame with `error`, and closes the connection:

    1003  a frame or sound that cannot be used     1008  nothing was sent for too long
    1007  not JSON                                  1011  a fault of the server
    1009  too large, or too long                    1013  too busy, or about to stop: try again later

The frames are described in `asr.serve.funasr_frames`. Text that a client sends is never logged.
"""

import asyncio
import contextlib
import json
import logging
import time
import traceback
from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from asr.serve import funasr_frames as frames
from asr.serve.decoding import BrokenSound, Busy, NotSound, TooLong
from asr.serve.engine_errors import DeadlinePassed, Draining, Overloaded, TooFarBehind, UnknownModeError
from asr.serve.funasr_frames import ConversationError, Request
from asr.serve.funasr_live import LiveSound
from asr.serve.inbox import Inbox
from asr.serve.refusal import Refusal
from asr.serve.service import Service
from asr.serve.session import Session, SoundMemory, TooMuchSoundError

PATHS = ("/", "/v1/stream")
SUBPROTOCOL = "binary"
NORMAL = 1000
MAX_REASON_BYTES = 123
"""Longest reason in a frame that closes a connection (RFC 6455, section 5.5)."""
DRAINING_CHECK_S = 0.5
"""Interval at which a conversation that waits for its client asks whether the server is about to stop."""
ROUTE = "websocket"
CODES = {
    UnknownModeError: frames.BAD_DATA,
    NotSound: frames.BAD_DATA,
    BrokenSound: frames.BAD_DATA,
    TooLong: frames.TOO_BIG,
    Busy: frames.TRY_LATER,
    Overloaded: frames.TRY_LATER,
    TooFarBehind: frames.TRY_LATER,
    Draining: frames.TRY_LATER,
    DeadlinePassed: frames.TRY_LATER,
}

log = logging.getLogger("asr.serve")


def add_funasr_websocket(app: FastAPI, service: Service) -> None:
    """Serve the protocol on its paths."""
    memory = SoundMemory(service.settings.websocket_sounds_bytes)

    async def converse(websocket: WebSocket) -> None:
        await Conversation(websocket, service, memory).run()

    for path in PATHS:
        app.add_api_websocket_route(path, converse)


class Conversation:
    """What one client sends and is answered, until one of the two closes the connection."""

    def __init__(self, websocket: WebSocket, service: Service, memory: SoundMemory):
        self._websocket, self._service, self._memory = websocket, service, memory
        self._inbox, self._request = Inbox(websocket), Request()
        self._session: Session | LiveSound | None = None

    async def run(self) -> None:
        """Accept the connection, answer each sound, and close."""
        offered = self._websocket.scope["subprotocols"]
        await self._websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        self._service.metrics.sessions.inc()
        try:
            with contextlib.suppress(WebSocketDisconnect):  # the client has left: nobody to answer
                await self._close(*await self._ending())
        finally:
            self._service.metrics.sessions.dec()
            self._inbox.close()
            if self._session:
                self._session.close()

    async def _ending(self) -> tuple[int, str]:
        """Answer each sound; return code and reason of the end."""
        try:
            async with asyncio.timeout(self._service.settings.websocket_session_s):
                await self._answer_sounds()
            return NORMAL, ""
        except TimeoutError:
            code, message = frames.NOT_ALLOWED, "the connection was open for too long"
        except ConversationError as error:
            code, message = error.code, str(error)
        except TooMuchSoundError as error:
            code, message = frames.TRY_LATER if error.is_full else frames.TOO_BIG, str(error)
        except Refusal as error:  # the client's share of a minute is used up
            code, message = frames.TRY_LATER, error.message
        except tuple(CODES) as error:
            code, message = next(code for kind, code in CODES.items() if isinstance(error, kind)), str(error)
        except WebSocketDisconnect:
            raise
        except Exception as error:
            places = "".join(traceback.format_tb(error.__traceback__))  # the text of an exception may quote a user
            log.error("a websocket failed with %s\n%s", type(error).__name__, places)
            code, message = frames.OUR_FAULT, "the server failed on this sound"
        self._service.metrics.rejections.labels(f"websocket_{code}").inc()
        await self._send(frames.error_frame(self._request, message))
        if self._request.wants_end:
            await self._send(frames.end_frame(self._request, message))
        return code, message

    async def _answer_sounds(self) -> None:
        """Obey the client's frames until nothing follows a text."""
        settings, num_texts = self._service.settings, 0
        while True:
            is_done = num_texts > 0 and self._session is None
            patience_s = settings.websocket_after_text_s if is_done else settings.websocket_idle_s
            message = await self._read(patience_s)
            if message is None and is_done:
                return
            if message is None:
                raise ConversationError(frames.NOT_ALLOWED, f"nothing was sent for {patience_s:g} s")
            if (text := message.get("text")) is not None:
                num_texts += await self._obey(text)
            else:
                await self._push(message["bytes"])

    async def _obey(self, text: str) -> bool:
        """Begin a sound or end it, as a text frame states; return whether its text was sent."""
        before, self._request = self._request, frames.read_frame(text, self._request, self._service.settings)
        request = self._request
        if self._session is None or not self._session.has_sound:
            self._begin(request)
        elif (before.mode, before.is_file, before.rate_hz) != (request.mode, request.is_file, request.rate_hz):
            raise ConversationError(frames.BAD_DATA, "mode, wav_format and audio_fs cannot change within a sound")
        if request.is_speaking:
            return False
        start, metrics = time.monotonic(), self._service.metrics
        await self._inbox.while_connected(self._answer(request))
        metrics.requests.labels(ROUTE, "200", request.mode).inc()
        metrics.request_s.labels(ROUTE).observe(time.monotonic() - start)
        if request.wants_end:
            await self._send(frames.end_frame(request))
        self._session = None
        return True

    def _begin(self, request: Request) -> None:
        """Make room for a sound, in place of one that never came."""
        if self._session:
            self._session.close()
        self._session, take_sound_s = None, self._websocket.state.take_sound_s
        if request.mode != "offline":
            self._session = LiveSound(self._service, request, self._send, take_sound_s)
            return
        self._service.engine.check_room(0.0)
        rate_hz = None if request.is_file else request.rate_hz
        self._session = Session(self._service, self._memory, rate_hz=rate_hz, take_sound_s=take_sound_s)

    async def _answer(self, request: Request) -> None:
        """End the sound and send its text, or the rest of it."""
        if isinstance(self._session, LiveSound):
            await self._session.flush(request)
            return
        for event in await self._session.flush(request.hotwords):
            await self._send(frames.text_frame(request, event))

    async def _read(self, patience_s: float) -> MutableMapping[str, Any] | None:
        """Return the client's next message, or None if there is none for `patience_s`.

        Raises:
            Draining: the server is about to stop, and the client has sent no part of a sound; or it speaks, and what it
                said so far was answered.
            Exception: what ended a live stream.
        """
        end, session = time.monotonic() + patience_s, self._session
        live = session if isinstance(session, LiveSound) else None
        while (rest_s := end - time.monotonic()) > 0:
            if message := await self._inbox.read(min(rest_s, DRAINING_CHECK_S), live and live.writing):
                return message
            if self._service.engine.draining and (live or not (session and session.has_sound)):
                if live:
                    await self._inbox.while_connected(live.finish())
                raise Draining("the server is about to stop")
        return None

    async def _push(self, content: bytes) -> None:
        if self._session is None:
            raise ConversationError(
                frames.BAD_DATA, 'expected a frame of settings before the sound, such as {"mode": "offline"}'
            )
        if len(content) > self._service.settings.websocket_message_bytes:
            raise ConversationError(
                frames.TOO_BIG, f"a frame has at most {self._service.settings.websocket_message_bytes} bytes"
            )
        for event in await self._session.push(content):
            await self._send(frames.text_frame(self._request, event))

    async def _send(self, frame: dict[str, Any]) -> None:
        """Send a text frame; a client that does not read for long counts as lost."""
        text = json.dumps(frame, ensure_ascii=False)
        try:
            await asyncio.wait_for(self._websocket.send_text(text), self._service.settings.websocket_idle_s)
        except (TimeoutError, RuntimeError):  # RuntimeError: the server has closed it, as it stops
            raise WebSocketDisconnect(1006) from None

    async def _close(self, code: int, reason: str) -> None:
        short = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        with contextlib.suppress(RuntimeError):  # closed already
            await self._websocket.close(code, short)
