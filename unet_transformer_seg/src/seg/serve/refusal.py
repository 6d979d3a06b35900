"""Why a request is not answered with a mask: a status, and the error body that clients of the OpenAI API read."""

import math

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRY_S = (1, 30)
"""Shortest and longest time after which a client is told to try again."""


class RefusedError(Exception):
    """An answer other than a mask.

    Attributes:
        status: of HTTP.
        message: for a person.
        code: for a program.
        param: field of the request that is wrong; None if it is no single one.
        retry_after_s: when to try again; None: the same request will fail again.
    """

    def __init__(
        self, status: int, message: str, code: str, *, param: str | None = None, retry_after_s: float | None = None
    ):
        super().__init__(status, message, code, param, retry_after_s)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s

    def __reduce__(self):
        return _rebuilt, self.args

    def body(self) -> dict:
        """Return {"error": {message, type, param, code}}."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return when to try again, and whether at all: some clients repeat a request after 500 and 503."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after_s is None:
            return headers | {"x-should-retry": "false"}
        shortest, longest = RETRY_S
        return headers | {"retry-after": str(min(max(math.ceil(self.retry_after_s), shortest), longest))}


def _rebuilt(status: int, message: str, code: str, param: str | None, retry_after_s: float | None) -> RefusedError:
    return RefusedError(status, message, code, param=param, retry_after_s=retry_after_s)


def draining() -> RefusedError:
    """Return the refusal of a server that is being stopped."""
    return RefusedError(503, "the server is being stopped; try another one", "draining", retry_after_s=5)


def starting() -> RefusedError:
    """Return the refusal of a server that is compiling its programs."""
    return RefusedError(503, "the server is starting; try again in a few seconds", "starting", retry_after_s=5)


def overloaded(wait_s: float) -> RefusedError:
    """Return the refusal of a server whose queue is full for about `wait_s` seconds."""
    return RefusedError(429, "too many images are waiting; try again later", "overloaded", retry_after_s=wait_s)


def too_late(seconds: float) -> RefusedError:
    """Return the refusal of a request that has waited for too long."""
    message = f"the answer was not ready within {seconds:g} s; try again when the server is less busy"
    return RefusedError(503, message, "deadline", retry_after_s=10)
