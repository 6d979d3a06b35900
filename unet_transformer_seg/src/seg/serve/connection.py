"""Connections of the server: how many, and how long a client may take for the head of a request."""

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

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            """Run the clock while no request is being answered; what is left of a refused body arrives meanwhile."""
            is_waiting = self.cycle is None or self.cycle.response_complete
            if is_waiting and not self._waiting_for_head:
                self._waiting_for_head = self.loop.call_later(settings.headers_timeout_s, self._give_up)
            elif not is_waiting and self._waiting_for_head:
                self._waiting_for_head.cancel()
                self._waiting_for_head = None

        def _give_up(self) -> None:
            self._waiting_for_head = None
            self.transport.close()

    return Connection
