"""OpenAI's realtime interface on `/v1/realtime`, as far as it transcribes: sound comes in events, and so does its text.

    client                              server
                                        session.created
    session.update                      session.updated
    input_audio_buffer.append           (with turn detection: input_audio_buffer.speech_started, speech_stopped)
    input_audio_buffer.commit           input_audio_buffer.committed, conversation.item.added
    input_audio_buffer.clear            input_audio_buffer.cleared
                                        conversation.item.input_audio_transcription.delta … completed
                                        conversation.item.done

A mistake in an event is answered by `error`, and the conversation goes on. What ends it is answered by `error`, too,
and closes the connection: 1008 nothing was sent for too long, or no such model; 1009 too large; 1011 a fault of the
server; 1013 too busy, or about to stop. Text that a client sends is never logged.
"""

import asyncio
import contextlib
import json
import logging
import time
import traceback
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from asr.serve.engine_errors import Draining
from asr.serve.inbox import Inbox
from asr.serve.realtime_events import (
    OLD_UPDATE,
    SessionState,
    error_event,
    event_id,
    make_id,
    parse_event,
    read_audio,
    read_update,
)
from asr.serve.realtime_turn import BYTES_PER_SAMPLE, Turn
from asr.serve.refusal import Refusal, refusal_of
from asr.serve.service import Service
from asr.serve.transcriptions import check_model
from asr.untrusted import shown

PATH = "/v1/realtime"
SUBPROTOCOL = "realtime"
NOT_ALLOWED, TOO_BIG, OUR_FAULT, TRY_LATER = 1008, 1009, 1011, 1013
CODES = {413: TOO_BIG, 429: TRY_LATER, 500: OUR_FAULT, 503: TRY_LATER}
"""Status of a refusal → code that closes the websocket (RFC 6455, section 7.4.1); 1008 for others."""
CHECK_S = 0.5
"""Interval at which a conversation that waits for its client asks whether the server is about to stop."""
BUFFER = "input_audio_buffer"
NO_STREAMING = "this server recognises a sound when it has ended; for text while it comes start it with --streaming"

log = logging.getLogger("asr.serve")


def add_realtime(app: FastAPI, service: Service) -> None:
    """Serve the interface on its path."""

    async def converse(websocket: WebSocket) -> None:
        await Conversation(websocket, service).run()

    app.add_api_websocket_route(PATH, converse)


class Ending(Exception):
    """What ends a conversation early."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.message)
        self.refusal = refusal


class Conversation:
    """What one client sends and is answered, until one of the two closes the connection."""

    def __init__(self, websocket: WebSocket, service: Service):
        self._websocket, self._service, self._inbox = websocket, service, Inbox(websocket)
        model = websocket.query_params.get("model") or service.name
        detects = service.live is not None and service.live.has_second_pass  # both need the detector
        self._state = SessionState(make_id("sess"), model, detects_turns=detects)
        self._turn: Turn | None = None
        self._heard_s, self._last_id = 0.0, None

    async def run(self) -> None:
        """Accept the connection, obey the client, and close."""
        offered = self._websocket.scope["subprotocols"]
        await self._websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        self._service.metrics.sessions.inc()
        try:
            with contextlib.suppress(WebSocketDisconnect):  # the client has left: nobody to answer
                await self._end(await self._ending())
        finally:
            self._service.metrics.sessions.dec()
            self._inbox.close()
            await self._drop_turn()

    async def _ending(self) -> Refusal:
        """Obey the client's events; return why this ends."""
        try:
            async with asyncio.timeout(self._service.settings.websocket_session_s):
                await self._converse()
        except TimeoutError:
            return Refusal(400, "the connection was open for too long", code="session_expired")
        except Ending as ending:
            return ending.refusal
        except WebSocketDisconnect:
            raise
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.status == 500:
                places = "".join(traceback.format_tb(error.__traceback__))  # its text may quote a user
                log.error("a realtime session failed with %s\n%s", type(error).__name__, places)
            return refusal

    async def _end(self, refusal: Refusal) -> None:
        self._service.metrics.rejections.labels(refusal.code or str(refusal.status)).inc()
        await self._send(error_event(refusal))
        with contextlib.suppress(RuntimeError):  # closed already
            await self._websocket.close(CODES.get(refusal.status, NOT_ALLOWED), refusal.code or "")

    async def _converse(self) -> None:
        self._check_service()
        await self._send({"type": "session.created", "session": self._state.shown})
        while True:
            text = await self._read()
            event: dict[str, Any] = {}
            try:
                event = parse_event(text)
                await self._obey(event)
            except Refusal as refusal:
                await self._send(error_event(refusal, event_id(event)))

    def _check_service(self) -> None:
        try:
            if self._service.live is None:
                raise Refusal(404, NO_STREAMING, code="not_supported")
            check_model(self._service, self._state.model)
        except Refusal as refusal:
            raise Ending(refusal) from None

    async def _obey(self, event: dict[str, Any]) -> None:
        """Do what an event asks for.

        Raises:
            Refusal: it cannot be done, and nothing has changed.
        """
        match event["type"]:
            case "session.update" | "transcription_session.update":
                await self._update(event)
            case "input_audio_buffer.append":
                await self._append(read_audio(event))
            case "input_audio_buffer.commit":
                await self._commit()
            case "input_audio_buffer.clear":
                await self._drop_turn()
                await self._send({"type": f"{BUFFER}.cleared"})
            case unknown:
                message = f"type: expected session.update or {BUFFER}.append, commit or clear, found {shown(unknown)}"
                raise Refusal(400, message, param="type", code="invalid_value")

    async def _update(self, event: dict[str, Any]) -> None:
        before, live = self._state, self._service.live
        state = read_update(event, before, self._service.settings, has_detector=live.has_second_pass)
        check_model(self._service, state.model)
        if self._turn and (state.rate_hz, state.detects_turns) != (before.rate_hz, before.detects_turns):
            message = "format and turn_detection cannot change while the buffer holds sound: commit or clear it first"
            raise Refusal(400, message, param="session", code="invalid_value")
        self._state = state
        kind = "transcription_session" if event["type"] == OLD_UPDATE else "session"
        await self._send({"type": f"{kind}.updated", "session": state.shown})

    async def _append(self, content: bytes) -> None:
        if not content:
            return
        state = self._state
        try:
            self._websocket.state.take_sound_s(len(content) / BYTES_PER_SAMPLE / state.rate_hz)
        except Refusal as refusal:  # the client's share of a minute is used up
            raise Ending(refusal) from None
        if self._turn is None:
            place = {"start_s": self._heard_s, "last_id": self._last_id}
            live = self._service.live
            session = live.open(state.rate_hz, live.has_second_pass)
            self._turn = Turn(session, self._send, state.rate_hz, detects_turns=state.detects_turns, **place)
        await self._turn.push(content)

    async def _commit(self) -> None:
        if self._turn is None:
            message = "the buffer holds no sound: append some first"
            raise Refusal(400, message, code="input_audio_buffer_commit_empty")
        start, metrics = time.monotonic(), self._service.metrics
        await self._inbox.while_connected(self._turn.commit())
        metrics.request_s.labels(PATH).observe(time.monotonic() - start)
        await self._drop_turn()

    async def _drop_turn(self) -> None:
        """Close the turn; what it was not asked to commit is lost."""
        if self._turn:
            turn, self._turn = self._turn, None
            await turn.close()
            self._heard_s, self._last_id = turn.end_s, turn.last_id
            self._service.metrics.requests.labels(PATH, "200", "json").inc(turn.num_items)

    async def _read(self) -> str:
        """Return the client's next message.

        Raises:
            Ending: there is none for too long, or it is too large.
            Draining: the server is about to stop, and the client is not within a sound that it will commit.
            Exception: what ended the live stream.
        """
        settings = self._service.settings
        end = time.monotonic() + settings.websocket_idle_s
        while (rest_s := end - time.monotonic()) > 0:
            if self._service.engine.draining:
                await self._leave()
            if message := await self._inbox.read(min(rest_s, CHECK_S), self._turn and self._turn.writing):
                return self._text(message)
        message = f"nothing was sent for {settings.websocket_idle_s:g} s"
        raise Ending(Refusal(400, message, code="idle"))

    def _text(self, message: dict[str, Any]) -> str:
        limit, text = self._service.settings.websocket_message_bytes, message.get("text")
        if text is None:
            raise Ending(Refusal(400, "expected events in text frames, found a binary frame", code="invalid_value"))
        if len(text) > limit:
            raise Ending(Refusal(413, f"an event has at most {limit} bytes", code="message_too_large"))
        return text

    async def _leave(self) -> None:
        """End the conversation of a server that is about to stop, unless the client will commit its sound."""
        if self._turn and not self._state.detects_turns:
            return
        if self._turn:
            await self._commit()
        raise Draining("the server is about to stop")

    async def _send(self, event: dict[str, Any]) -> None:
        """Send an event; a client that does not read for long counts as lost."""
        if self._state.is_old and event["type"] == "conversation.item.added":
            event = event | {"type": "conversation.item.created"}
        text = json.dumps({"event_id": make_id("event"), **event}, ensure_ascii=False)
        try:
            # Not wait_for: before Python 3.12 it may lose a cancellation, and a turn that writes is ended by one.
            async with asyncio.timeout(self._service.settings.websocket_idle_s):
                await self._websocket.send_text(text)
        except (TimeoutError, RuntimeError):  # RuntimeError: the server has closed it, as it stops
            raise WebSocketDisconnect(1006) from None
