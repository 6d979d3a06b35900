"""The errors that clients see: a status, and a body in the form of OpenAI's interface.

    {"error": {"message": …, "type": …, "param": …, "code": …}}

Reference: the `openai` package (3.57) retries 408, 409, 429 and 500 or more. It obeys `retry-after` up to 120 s, and
`x-should-retry: false`.
"""

import dataclasses
import json
import math

from starlette.types import Receive, Scope, Send

from asr.serve.decoding import BrokenSound, Busy, NotSound, TooLong
from asr.serve.engine_errors import DeadlinePassed, Draining, Overloaded, TooFarBehind

MIN_RETRY_S, MAX_RETRY_S = 1, 60
"""Bounds of `retry-after`, in seconds."""


@dataclasses.dataclass(eq=False)
class Refusal(Exception):
    """A request that gets no result. Called as an ASGI application, it answers.

    Attributes:
        status: of HTTP.
        message: what is wrong and what to do; without paths of this machine.
        param: the field of the form that is wrong.
        code: a name that programs can compare.
        retry_after_s: when the client may try again; None: the header is left out.
        headers: further ones.
        may_retry: False makes the `openai` package give up at once.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    may_retry: bool = True

    @property
    def body(self) -> bytes:
        """The JSON that clients show."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "backslashreplace")

    def all_headers(self) -> dict[str, str]:
        """Return the headers, those of the body included."""
        headers = {"content-type": "application/json", "content-length": str(len(self.body)), **self.headers}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(min(max(self.retry_after_s, MIN_RETRY_S), MAX_RETRY_S)))
        if not self.may_retry:
            headers["x-should-retry"] = "false"
        return headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the error; a websocket is refused before it is accepted."""
        kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self.all_headers().items()]
        await send({"type": f"{kind}.start", "status": self.status, "headers": headers})
        await send({"type": f"{kind}.body", "body": self.body})


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


def refusal_of(error: Exception) -> Refusal:
    """Return the refusal for an error of the decoders or of the engine; every other one is a fault of the server."""
    match error:
        case NotSound():
            return Refusal(415, str(error), param="file", code="not_sound")
        case TooLong():
            return Refusal(422, str(error), param="file", code="sound_too_long")
        case BrokenSound():
            return Refusal(422, str(error), param="file", code="broken_sound")
        case Overloaded() | Busy():
            retry_after_s = getattr(error, "retry_after_s", 1.0)
            return Refusal(429, "the queue is full: try again", code="overloaded", retry_after_s=retry_after_s)
        case TooFarBehind():
            return Refusal(429, str(error), code="too_fast")
        case Draining():
            return stopping()
        case DeadlinePassed():
            message = "the answer was not ready in time; send shorter sound, or try again when there is less to do"
            return Refusal(503, message, code="deadline_passed", retry_after_s=30, may_retry=False)
    return Refusal(500, "the server failed on this request; its log has the reason", code="failed", may_retry=False)


def stopping() -> Refusal:
    """Return the refusal of a service that finishes its work and takes no more."""
    return Refusal(503, "the service is stopping: try another one, or later", code="stopping", retry_after_s=5)


def starting() -> Refusal:
    """Return the refusal of a service that still compiles its programs."""
    return Refusal(503, "the service is starting: its programs are being compiled", code="starting", retry_after_s=5)
