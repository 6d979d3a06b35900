"""Connections of the server: how many, and how long a client may take for the head of a request."""

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from seg.serve.settings import ServeSettings


def bounded_connections(settings: ServeSettings) -> type[H11Protocol]:
    """Return uvicorn's protocol with the limits of `settings`, which it has not itself."""

    class Connection(H11Protocol):
        """One connection."""

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self._waiting_for_head = None
            if len(self.connections) > settings.max_connections:
                transport.abort()
            else:
                self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc) -> None:
            if self._waiting_for_head:
                self._waiting_for_head.cancel()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the clock while the head of a request is incomplete, and stop it afterwards."""
            is_waiting = self.conn.their_state is h11.IDLE
            if is_waiting and not self._waiting_for_head:
                self._waiting_for_head = self.loop.call_later(settings.headers_timeout_s, self._give_up)
            elif not is_waiting and self._waiting_for_head:
                self._waiting_for_head.cancel()
                self._waiting_for_head = None

        def _give_up(self) -> None:
            self._waiting_for_head = None
            if self.conn.their_state is h11.IDLE:
                self.transport.close()

    return Connection
