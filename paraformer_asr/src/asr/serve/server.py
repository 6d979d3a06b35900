"""Runs the application: it listens at once, compiles meanwhile, and finishes its work before it ends."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from asr.errors import UserError
from asr.serve.connection import bounded_connections
from asr.serve.priority import prefer_this_thread
from asr.serve.service import Service

DRAIN_S = 30.0
"""Longest time that requests have to finish after SIGTERM, in seconds."""
LAST_ANSWERS_S = 5
BACKLOG = 1024

logger = logging.getLogger("asr.serve")


class Server(uvicorn.Server):
    """A server of one application.

    SIGTERM and Ctrl-C drain it: /readyz and new requests get 503, those that have begun are finished, then it ends. A
    second signal ends it at once.

    Args:
        service: that the application uses; started and stopped here.
        app: from `make_app`.
        listener: a socket that is bound.
        drain_s: longest time to finish requests.

    Attributes:
        error: why the service could not be started; None if it could.
    """

    def __init__(self, service: Service, app: ASGIApp, listener: socket.socket, drain_s: float = DRAIN_S):
        settings = service.settings
        config = uvicorn.Config(
            app,
            http=bounded_connections(settings),
            ws="websockets-sansio",
            ws_max_size=settings.websocket_message_bytes,
            ws_ping_interval=None,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=LAST_ANSWERS_S,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            backlog=BACKLOG,
        )
        super().__init__(config)
        self.service, self.listener, self.drain_s = service, listener, drain_s
        self.error: Exception | None = None
        self._draining: asyncio.Task | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def is_compiling(self) -> bool:
        """Whether the service is still being started."""
        return self._starting is not None and self._starting.is_alive()

    def serve_until_stopped(self) -> None:
        """Listen, start the service, and return when it has ended.

        Raises:
            Exception: why the service could not be started.
        """
        try:
            self.run(sockets=[self.listener])
        finally:
            self.service.stop()
        if self.error:
            raise self.error

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and start the service beside the event loop, which answers probes meanwhile."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        logger.info("listening on %s; compiling before the first request", self.url)
        self._starting = threading.Thread(target=self._start_service, name="start", daemon=True)
        self._starting.start()

    def _start_service(self) -> None:
        try:
            self.service.start()
            self._loop.call_soon_threadsafe(prefer_this_thread)
            logger.info("ready: %s", self.url)
        except Exception as error:
            self.error, self.should_exit = error, True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C drain the server; in other threads than the main one its owner calls `drain`."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame) -> None:
        """Drain after a first signal, end after a second one."""
        if self.service.engine.draining:
            self.force_exit = self.should_exit = True
        self.drain()

    def drain(self) -> None:
        """Refuse new work, and end when there is none left. May be called from any thread."""
        self.service.drain()
        if self._loop is None:  # it does not listen yet
            self.should_exit = True
            return
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._start_draining)

    def _start_draining(self) -> None:
        if self._draining is None:
            logger.info("stopping; requests in progress: %d", len(self.server_state.tasks))
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.drain_s):
                while self.server_state.tasks:
                    await asyncio.sleep(0.05)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address of this machine; port 0 is any free one.

    Raises:
        UserError: there is no such address, or the port is taken or not allowed.
    """
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port}: expected 0 to 65535")
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        if listener:
            listener.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({reason}); choose another --host or --port"
        ) from None
    return listener
