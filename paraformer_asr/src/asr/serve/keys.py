"""The keys that clients may use: read from a file or the environment, compared in constant time, never shown."""

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from asr.errors import UserError
from asr.files import decoded, read_bounded
from asr.serve.refusal import Refusal

VARIABLE = "ASR_API_KEYS"
SUBPROTOCOL = "openai-insecure-api-key."
"""Prefix of the subprotocol that carries a key: a browser's websocket cannot send headers."""
MIN_CHARACTERS = 16
MAX_FILE_BYTES = 1 << 16


def read_keys(path: Path | None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the keys in a file, one a line, and those in the environment variable `ASR_API_KEYS`, parted by blanks.

    Lines that start with # are comments.

    Raises:
        UserError: the file cannot be read or holds no key, or a key is too short or not ASCII.
    """
    keys = [(key, VARIABLE) for key in environment.get(VARIABLE, "").split()]
    if path is not None:
        lines = _read(path).splitlines()
        numbered = [(line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, 1)]
        from_file = [(key, place) for key, place in numbered if key and not key.startswith("#")]
        if not from_file:
            raise UserError(f"--api-key-file {path}: holds no key; write one a line")
        keys += from_file
    for key, place in keys:
        if len(key) < MIN_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
            expected = f"at least {MIN_CHARACTERS} ASCII characters without blanks"
            raise UserError(f'{place}: expected a key of {expected}; make one with "openssl rand -hex 24"')
    return [key for key, _ in keys]


class Keys:
    """The keys of a server; without any, every client may use it."""

    def __init__(self, keys: list[str]):
        self._digests = [_digest(key) for key in keys]

    def identify(self, scope: Scope) -> str:
        """Return a name of the client for its rate limit: that of its key, or without keys its address.

        Raises:
            Refusal: no key, or none of ours.
        """
        if not self._digests:
            return (scope.get("client") or ("unknown", 0))[0]
        digest = _digest(_offered_key(scope))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them: the time says nothing
        if any(matches):
            return f"key {matches.index(True) + 1}"
        message = "the key is missing or wrong; send it as the header Authorization: Bearer KEY"
        raise Refusal(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _read(path: Path) -> str:
    try:
        return decoded(path, read_bounded(path, MAX_FILE_BYTES), "keys")
    except OSError as error:
        raise UserError(f"--api-key-file {path}: cannot be read ({error.strerror})") from None


def _offered_key(scope: Scope) -> str:
    kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    if kind.lower() == "bearer" or scope["type"] != "websocket":
        return key.strip() if kind.lower() == "bearer" else ""
    offers = [name.removeprefix(SUBPROTOCOL) for name in scope["subprotocols"] if name.startswith(SUBPROTOCOL)]
    return offers[0] if offers else QueryParams(scope["query_string"]).get("api_key", "")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()
