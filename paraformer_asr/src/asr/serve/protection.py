"""The layer between the network and the routes: keys, origins, limits, one form of errors, one line of log a request.

A pure ASGI application: it counts a body while it arrives, before any parser sees it. The log holds no text of a user:
no path but the known ones, no name of a file, no transcript, no key.
"""

import functools
import logging
import random
import time
import traceback
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr.serve.body import Body, BytesInFlight
from asr.serve.hosts import is_allowed
from asr.serve.keys import Keys
from asr.serve.page import page_paths
from asr.serve.rate_limit import RateLimit
from asr.serve.refusal import ClientGone, Refusal, refusal_of, starting, stopping
from asr.serve.service import Service

HEALTH = ("/healthz", "/health", "/ping", "/readyz")
OPEN = (*HEALTH, *page_paths(), "/metrics", "/docs", "/openapi.json")
"""Routes that need no key: they hold nothing of the users."""
TRANSCRIPTIONS = "/v1/audio/transcriptions"
ROUTES = (*OPEN, "/v1/models", TRANSCRIPTIONS, "/v1/audio/translations", "/v1/stream", "/v1/realtime")
MAX_DISCARDED_BYTES = 1 << 20
"""After an early refusal the rest of a body of up to this size is read and dropped, so that the client sees the answer.
A larger one closes the connection."""
CLIENT_GONE = 499
"""Status in the log and in the metrics of a client that closed the connection, as nginx writes it."""
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cache-control": "no-store",
}
"""Headers of every answer that does not set them itself; the page widens its policy to its own script and style."""

logger = logging.getLogger("asr.serve")


class Protection:
    """The ASGI application around the routes.

    Args:
        app: the routes.
        service: whose limits, metrics and state are used.
        keys: that clients may use.
        origins: of browsers that may use the service from pages of other servers, as `https://example.org`.
        hosts: names that clients may call the server by, as from `allowed_hosts`.
    """

    def __init__(
        self, app: ASGIApp, service: Service, keys: Keys, origins: Sequence[str] = (), hosts: Sequence[str] = ()
    ):
        self.app, self.service, self.keys, self.origins, self.hosts = app, service, keys, origins, hosts
        self._bytes = BytesInFlight(service.settings.decode_waiting_bytes)
        self._requests = RateLimit(service.settings.max_requests_per_minute, "requests")
        self._sound_s = RateLimit(service.settings.max_sound_s_per_minute, "seconds of sound")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._converse(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, body = Exchange(scope, send), None
        try:
            self._check_host(scope)
            self._admit(scope)
            announced = int(Headers(scope=scope).get("content-length", "0"))
            body = Body(receive, self.service.settings, self._bytes, announced)
            await self.app(scope, body.receive, exchange.send)
        except ClientGone:
            exchange.status = CLIENT_GONE
        except Exception as error:
            refusal = error if isinstance(error, Refusal) else refusal_of(error)
            if refusal.status == 500:
                _log_failure(error, exchange.request_id)
            if not exchange.status:  # otherwise the answer has begun, and the server breaks it off
                exchange.closes = not (body and body.is_complete) and _has_long_body(scope)
                await exchange.refuse(refusal, scope, receive)
        finally:
            if body:
                body.release()
            self._record(exchange, body.num_bytes if body else 0)

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a websocket through, or answer its handshake with the refusal."""
        offers = ",".join(scope["subprotocols"])  # uvicorn before 0.50 leaves several in one text
        scope["subprotocols"] = [name.strip() for name in offers.split(",") if name.strip()]
        try:
            self._check_host(scope)
            self._check_origin(scope)
            self._admit(scope)
        except Refusal as refusal:
            self.service.metrics.rejections.labels(refusal.code or str(refusal.status)).inc()
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Refuse a client without key, one that asks too often, and work that there is no room for.

        The body has not been read, and may not even have arrived.
        """
        path = scope["path"]
        is_open = scope["type"] == "http" and (path in OPEN or scope["method"] == "OPTIONS")
        client = "" if is_open else self.keys.identify(scope)
        scope.setdefault("state", {})["take_sound_s"] = functools.partial(self._sound_s.take, client)
        takes_work = scope["type"] == "websocket" or scope["method"] == "POST"
        if not takes_work:
            return
        if scope["type"] == "http":
            self._check_origin(scope)
        check_ready(self.service)
        if path == TRANSCRIPTIONS:
            self.service.engine.check_room(0.0)
        self._requests.take(client)

    def _check_host(self, scope: Scope) -> None:
        """Refuse a page whose name was made to resolve to this machine; probes may use any name."""
        if scope["path"] in HEALTH or is_allowed(Headers(scope=scope).get("host", ""), self.hosts):
            return
        message = "the server does not answer to this name; start it with --allowed-host NAME"
        raise Refusal(421, message, code="host_not_allowed", may_retry=False)

    def _check_origin(self, scope: Scope) -> None:
        """Refuse a page of another server: browsers let it open websockets and post forms to this one."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None or origin in self.origins or origin.partition("://")[2] == headers.get("host"):
            return
        message = "pages of this origin may not use the service; start it with --allow-origin ORIGIN"
        raise Refusal(403, message, code="origin_not_allowed", may_retry=False)

    def _record(self, exchange: "Exchange", num_bytes: int) -> None:
        route, metrics = exchange.route, self.service.metrics
        metrics.requests.labels(route, str(exchange.status), exchange.format).inc()
        if exchange.status >= 400:
            metrics.rejections.labels(exchange.code or str(exchange.status)).inc()
        level = logging.DEBUG if route in HEALTH or route == "/metrics" else logging.INFO
        values = exchange.method, route, exchange.status, exchange.format or "-", num_bytes, exchange.age_ms
        logger.log(level, "%s %s %s %d %s, %d bytes in %.0f ms", exchange.request_id, *values)


class Exchange:
    """One request and its answer, whose headers are completed on their way.

    Attributes:
        request_id: in the header `x-request-id` and in the log.
        method: of HTTP.
        route: the path if it is a known one.
        status: of the answer; 0 until it begins.
        code: of the refusal, if it is one.
        closes: whether the connection ends after it.
    """

    def __init__(self, scope: Scope, send: Send):
        self._send, self._scope, self._start = send, scope, time.monotonic()
        self.request_id = f"{random.getrandbits(128):032x}"
        self.method = scope["method"] if scope["method"].isalpha() and len(scope["method"]) < 10 else "other"
        self.route = _route(scope["path"])
        self.status, self.code, self.closes = 0, "", False

    @property
    def age_ms(self) -> float:
        """Milliseconds since the request came."""
        return (time.monotonic() - self._start) * 1000

    @property
    def format(self) -> str:
        """The format of the answer, as the route noted it."""
        return self._scope.get("state", {}).get("format", "")

    async def refuse(self, refusal: Refusal, scope: Scope, receive: Receive) -> None:
        """Answer with an error."""
        self.code = refusal.code or ""
        await refusal(scope, receive, self.send)

    async def send(self, message: Message) -> None:
        """Send a message of the application to the client."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["openai-processing-ms"] = f"{self.age_ms:.0f}"
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if self.closes:
                headers["connection"] = "close"
        await self._send(message)


def check_ready(service: Service) -> None:
    """Raise a Refusal unless the service takes work."""
    if service.engine.draining:
        raise stopping()
    if not service.engine.ready:
        raise starting()


def _route(path: str) -> str:
    """Return a path as logs and metrics may show it: a text of a user never is."""
    if path in ROUTES:
        return path
    return "/v1/models/{id}" if path.startswith("/v1/models/") else "other"


def _has_long_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or int(headers.get("content-length", "0")) > MAX_DISCARDED_BYTES


def _log_failure(error: Exception, request_id: str) -> None:
    """Log where the server failed; the text of an exception may quote a user, so it is left out."""
    places = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with %s\n%s", request_id, type(error).__name__, places)
