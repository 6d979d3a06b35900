"""HTTP/1.1 connections that nobody can hold for nothing: their number, slow headers and slow readers are bounded."""

import asyncio
import functools

from uvicorn.protocols.http.h11_impl import H11Protocol

from asr.serve.refusal import Refusal
from asr.serve.settings import ServeSettings

PHRASES = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}


class Connection(H11Protocol):
    """One connection; uvicorn itself waits for headers for ever.

    Args:
        arguments: of uvicorn's class.
        settings: `max_connections`, `headers_timeout_s` and `idle_timeout_s` are used.
        named: arguments of uvicorn's class.
    """

    def __init__(self, *arguments, settings: ServeSettings, **named):
        super().__init__(*arguments, **named)
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Accept a connection, or answer that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._settings.max_connections:
            self._answer(Refusal(503, "too many connections: try again", code="overloaded", retry_after_s=1))
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        super().data_received(data)
        self._watch()

    def handle_websocket_upgrade(self, event) -> None:
        """Hand the connection over to the protocol of websockets, which has limits of its own."""
        super().handle_websocket_upgrade(event)
        self._stop_timer()
        self.cycle, self._watch = None, lambda: None

    def on_response_complete(self) -> None:
        """Wait for the next request on the connection."""
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; a request whose body broke off counts as closed by its client."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.cycle is None or not self.cycle.response_started:
            self._answer(Refusal(400, "this is not a request of HTTP/1.1", code="malformed_request"))
        self.transport.close()

    def pause_writing(self) -> None:
        """Cut off a client that reads nothing of its answer for too long."""
        super().pause_writing()
        self._writing = self.loop.call_later(self._settings.idle_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Let the answer continue: the client has read."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _watch(self) -> None:
        """Run the timer while no request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self._settings.headers_timeout_s, self._end_waiting)

    def _end_waiting(self) -> None:
        self._timer = None
        if self.cycle is None:
            self._answer(Refusal(408, "the headers of a request did not arrive in time", code="too_slow"))
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _answer(self, refusal: Refusal) -> None:
        """Write an answer without the application, and close."""
        headers = {**refusal.all_headers(), "connection": "close"}
        lines = [f"HTTP/1.1 {refusal.status} {PHRASES[refusal.status]}", *(f"{n}: {v}" for n, v in headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + refusal.body)
        self.transport.close()


def bounded_connections(settings: ServeSettings) -> type[asyncio.Protocol]:
    """Return what uvicorn makes its connections of."""
    return functools.partial(Connection, settings=settings)
