"""A service that tries itself: one generated image through the real port."""

import http.client
import io
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from seg.errors import EXIT_OK, UserError
from seg.serve.formats import formats_of
from seg.serve.server import Server, address_of
from seg.serve.service import Service

READY_S = 600
"""Longest compilation that is waited for, in seconds."""

ROUTES = ("/healthz", "/v1/models", "/v1/classes", "/")


def run_selftest(server: Server, service: Service, listener: socket.socket, keys: Sequence[str]) -> int:
    """Start the server, ask it for everything once, stop it; return the exit code.

    Raises:
        UserError: naming what it did not answer.
    """
    address = address_of(listener)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        for line in _try_routes(listener.getsockname(), keys, formats_of(service.classes)):
            print(line)
    finally:
        server.should_exit = True
        thread.join()
    server.check_startup()
    print(f"selftest of {address}: passed")
    return EXIT_OK


def _try_routes(address: tuple, keys: Sequence[str], formats: Sequence[str]) -> Iterator[str]:
    start = time.monotonic()
    while _ask(address, "GET", "/readyz")[0] != 200:
        if time.monotonic() - start > READY_S:
            raise UserError(f"selftest: the server was not ready within {READY_S} s")
        time.sleep(0.1)
    yield f"ready after {time.monotonic() - start:.1f} s"
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    for path in ROUTES:
        _expect(_ask(address, "GET", path, headers=headers), path)
    for form in formats:
        path = f"/v1/segment?format={form}"
        answer = _expect(_ask(address, "POST", path, _sample(), headers), path)
        yield f"{path}: {len(answer)} bytes"


def _sample() -> bytes:
    """Return a PNG of two gradients."""
    red_hw, green_hw = np.mgrid[0:48, 0:64].astype(np.uint8) * 4
    file = io.BytesIO()
    Image.fromarray(np.stack([red_hw, green_hw, red_hw], -1)).save(file, "PNG")
    return file.getvalue()


def _ask(address: tuple, method: str, path: str, body: bytes = b"", headers: dict | None = None) -> tuple[int, bytes]:
    host = "localhost" if ipaddress.ip_address(address[0]).is_unspecified else address[0]
    connection = http.client.HTTPConnection(host, address[1], timeout=60)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _expect(answer: tuple[int, bytes], path: str) -> bytes:
    status, content = answer
    if status != 200:
        message = json.loads(content).get("error", {}).get("message", "") if content.startswith(b"{") else ""
        raise UserError(f"selftest: {path} answered {status}: {message}")
    return content
