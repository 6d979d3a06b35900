"""The server: uvicorn with limits, which answers what it has taken before it stops."""

import socket
import time

import uvicorn
from fastapi import FastAPI

from seg.errors import UserError
from seg.serve.connection import bounded_connections
from seg.serve.priority import prefer_this_thread
from seg.serve.service import Service

MAX_HEADERS_BYTES = 16 << 10
BACKLOG = 512


class Server(uvicorn.Server):
    """Serves an application.

    The first signal drains: `/readyz` turns to 503, new images are refused, and the server stops after the last answer.
    A second signal stops it at once.
    """

    def __init__(self, app: FastAPI, service: Service):
        self._service, self._stop_at, self._app = service, None, app
        # uvicorn's own logging config would close the handlers of other libraries, and with absl's the standard error.
        options = {"log_config": None, "log_level": "error", "access_log": False, "ws": "none", "lifespan": "on"}
        options |= {"server_header": False, "proxy_headers": False, "backlog": BACKLOG, "timeout_graceful_shutdown": 1}
        options |= {"h11_max_incomplete_event_size": MAX_HEADERS_BYTES, "http": bounded_connections(service.settings)}
        super().__init__(uvicorn.Config(app, timeout_keep_alive=service.settings.keep_alive_s, **options))

    def handle_exit(self, sig: int, frame) -> None:
        """Drain at the first signal, stop at the second."""
        if self._stop_at is not None:
            self.should_exit = self.force_exit = True
        self._stop_at = time.monotonic() + self._service.settings.drain_s
        self._service.drain()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; once the programs are compiled, answer before the device is fed."""
        await super().startup(sockets)
        self._app.state.startup.add_done_callback(lambda _: prefer_this_thread())

    async def on_tick(self, counter: int) -> bool:
        """Stop when the last answer is out, or compilation failed."""
        startup = self._app.state.startup
        has_failed = startup.done() and startup.exception() is not None
        is_drained = self._stop_at is not None and (not self.server_state.tasks or time.monotonic() > self._stop_at)
        self.should_exit = self.should_exit or has_failed or is_drained
        return await super().on_tick(counter)

    def check_startup(self) -> None:
        """Raise what went wrong in the start of the service, if anything did."""
        if (startup := getattr(self._app.state, "startup", None)) and startup.done():
            startup.result()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        UserError: the address is not of this machine, or the port is taken.
    """
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port}: expected a number from 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        text = f"--host {host} --port {port}: cannot listen there ({error.strerror}); try --port 0"
        raise UserError(text) from None


def address_of(listener: socket.socket) -> str:
    """Return the URL of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
