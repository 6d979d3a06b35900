"""What every request passes before and after the application: limits, keys, identifiers and headers (pure ASGI)."""

import asyncio
import hmac
import json
import logging
import random
import time
from collections.abc import Sequence
from typing import Any

from seg.serve.hosts import is_allowed
from seg.serve.rate_limit import RateLimit
from seg.serve.refusal import RefusedError, overloaded
from seg.serve.service import Service
from seg.serve.settings import ServeSettings

log = logging.getLogger("seg.serve")

PROTECTED = "/v1/"
"""Start of the paths that need a key."""

MAX_DISCARDED_BYTES = 1 << 20
"""After an early refusal the rest of a body of up to this size is read and dropped, so that the client sees the answer.
A larger one closes the connection."""

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}

HEALTH = ("/healthz", "/health", "/ping", "/readyz")
SEGMENT = "/v1/segment"
ROUTES = ("/", SEGMENT, "/v1/classes", "/v1/models", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")
"""Paths that metrics name; all else is `other`, so that clients cannot make labels."""


class Protection:
    """Wraps an application.

    Attributes:
        client_of: key of the client of a request, for limits: the number of its key, or its address.
    """

    def __init__(self, app: Any, service: Service, keys: Sequence[str] = (), hosts: Sequence[str] = ()):
        self._app, self._service, self._hosts = app, service, hosts
        self._settings, self._metrics = service.settings, service.metrics
        self._keys = [key.encode() for key in keys]
        self._rate = RateLimit(self._settings.max_requests_per_minute, "requests")
        self._num_running = self._bytes_in_flight = 0

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: dict, receive: Any, send: Any) -> None:
        body = _Body(self, receive, scope)
        reply = _Reply(send, body)
        route = scope["path"] if scope["path"] in ROUTES else "other"
        self._num_running += 1
        self._metrics.running.set(self._num_running)
        try:
            self._admit(scope)
            body.check_declared()
            await self._app(scope, body.receive, reply.send)
        except RefusedError as refusal:
            self._metrics.refusals.labels(refusal.code).inc()
            await reply.refuse(refusal)
        except Exception:
            log.exception("request %s failed", reply.request_id)
            await reply.refuse(RefusedError(500, "the server failed on this request", "internal_error"))
        finally:
            self._num_running -= 1
            self._metrics.running.set(self._num_running)
            self.hold(-body.num_bytes)
            self._metrics.requests.labels(route, str(reply.status)).inc()
            self._metrics.request_s.labels(route).observe(time.monotonic() - reply.start)
            if route not in ("/healthz", "/readyz", "/metrics"):
                milliseconds = 1000 * (time.monotonic() - reply.start)
                arguments = reply.request_id, scope["method"], route, reply.status, body.num_bytes, milliseconds
                log.info("%s %s %s %d, %d bytes, %.0f ms", *arguments)

    def _admit(self, scope: dict) -> None:
        """Refuse what comes from another site, has no key, or is too much.

        The body has not been read, and may not even have arrived.
        """
        headers = dict(scope["headers"])
        if scope["path"] not in HEALTH and not is_allowed(headers.get(b"host", b"").decode("latin-1"), self._hosts):
            message = "the server does not answer to this name; start it with --allowed-host NAME"
            raise RefusedError(421, message, "host_not_allowed")
        if not scope["path"].startswith(PROTECTED):
            return
        if self._num_running > self._settings.max_requests:
            raise overloaded(1)
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise RefusedError(403, "a page of another site may not use this server", "foreign_origin")
        scope.setdefault("state", {})["client"] = client = self._client(scope, headers)
        if scope["path"] == SEGMENT and scope["method"] == "POST":
            self._service.check_room()
        self._rate.take(client, 1)

    def _client(self, scope: dict, headers: dict[bytes, bytes]) -> str:
        if not self._keys:
            return (scope.get("client") or ("unknown",))[0]
        key = headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip() or headers.get(b"x-api-key", b"")
        # Every key is compared, in constant time, so that the time says nothing about them.
        matches = [hmac.compare_digest(key, own) for own in self._keys]
        if not any(matches):
            message = "this server needs a key: Authorization: Bearer KEY" if not key else "the key is wrong"
            raise RefusedError(401, message, "invalid_api_key")
        return f"key {matches.index(True)}"

    def hold(self, num_bytes: int) -> None:
        """Count bytes that are held, or with a negative number released."""
        self._bytes_in_flight += num_bytes
        self._metrics.bytes_in_flight.set(self._bytes_in_flight)

    def check_bytes(self, num_bytes: int, more: int) -> None:
        """Refuse a body that has, or will have, so many bytes, of which `more` are not yet held."""
        if num_bytes > self._settings.max_body_bytes:
            limit = self._settings.max_body_bytes / (1 << 20)
            raise RefusedError(413, f"the request is larger than {limit:g} MiB", "body_too_large")
        if self._bytes_in_flight + more > self._settings.max_bytes_in_flight:
            raise overloaded(2)

    @property
    def settings(self) -> ServeSettings:
        """The limits."""
        return self._settings


class _Body:
    """The body of a request, counted and timed as it arrives."""

    def __init__(self, protection: Protection, receive: Any, scope: dict):
        self._protection, self._receive = protection, receive
        self.num_bytes, self.is_complete, self._start = 0, False, time.monotonic()
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        self.num_declared = int(declared[:20]) if declared.isdigit() else 0
        self.is_long = b"transfer-encoding" in headers or self.num_declared > MAX_DISCARDED_BYTES

    def check_declared(self) -> None:
        """Refuse a request by its Content-Length."""
        self._protection.check_bytes(self.num_declared, self.num_declared)

    async def receive(self) -> dict:
        """Return the next message.

        Raises:
            RefusedError: too large, or too slow.
        """
        if self.is_complete:
            return await self._receive()
        settings = self._protection.settings
        allowed_s = settings.body_timeout_s + self.num_bytes / settings.min_body_bytes_per_s
        left_s = self._start + allowed_s - time.monotonic()
        try:
            async with asyncio.timeout(max(min(left_s, settings.idle_timeout_s), 0)):
                message = await self._receive()
        except TimeoutError:
            raise RefusedError(408, "the request arrived too slowly", "slow_request", retry_after_s=1) from None
        if message["type"] == "http.request":
            more = len(message.get("body", b""))
            self._protection.check_bytes(self.num_bytes + more, more)
            self._protection.hold(more)
            self.num_bytes += more
            self.is_complete = not message.get("more_body", False)
        return message


class _Reply:
    """An answer on its way out: it gets an identifier and the security headers."""

    def __init__(self, send: Any, body: _Body):
        self._send, self._body, self.status, self.start = send, body, 499, time.monotonic()
        self.request_id, self._has_started = f"{random.getrandbits(128):032x}", False

    async def send(self, message: dict) -> None:
        """Pass a message of the application on."""
        if message["type"] == "http.response.start":
            self._has_started, self.status = True, message["status"]
            own = {name.decode("latin-1") for name, _ in message.get("headers", ())}
            more = {name: value for name, value in SECURITY_HEADERS.items() if name not in own}
            more["x-request-id"] = self.request_id
            more["openai-processing-ms"] = f"{1000 * (time.monotonic() - self.start):.0f}"
            if message["status"] >= 400 and not self._body.is_complete and self._body.is_long:
                more["connection"] = "close"
            added = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in more.items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)

    async def refuse(self, refusal: RefusedError) -> None:
        """Answer with the error, unless an answer is already under way."""
        if self._has_started:
            return
        content = json.dumps(refusal.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), **refusal.headers()}
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": content})
