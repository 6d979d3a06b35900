"""The body of a request, counted and timed while it arrives, before any parser sees it."""

import asyncio
import dataclasses
import time

from starlette.types import Message, Receive

from asr.serve.refusal import ClientGone, Refusal
from asr.serve.settings import ServeSettings


@dataclasses.dataclass
class BytesInFlight:
    """How many bytes of bodies the process holds.

    Attributes:
        limit: most bytes of all requests together.
        count: bytes now.
    """

    limit: int
    count: int = 0


class Body:
    """The body of one request: pass `receive` on in place of the server's.

    Attributes:
        num_bytes: received so far.
        is_complete: whether all of it has arrived.
    """

    def __init__(self, receive: Receive, settings: ServeSettings, in_flight: BytesInFlight, announced: int):
        self._receive, self._settings, self._in_flight = receive, settings, in_flight
        self._start = time.monotonic()
        self.num_bytes, self.is_complete = 0, False
        if announced > settings.max_body_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """Return the next message of the server.

        Raises:
            Refusal: the body is too large or too slow, or other bodies leave no room for it.
            ClientGone: the connection was closed before the end of the body.
        """
        if self.is_complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._patience_s())
        except TimeoutError:
            pace = f"{self._settings.min_body_bytes_per_s / 1024:g} KiB/s"
            message = f"the body arrives too slowly: {self.num_bytes} bytes so far; expected at least {pace} on average"
            raise Refusal(408, message, code="too_slow") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._count(len(message.get("body", b"")))
        self.is_complete = not message.get("more_body", False)
        return message

    def release(self) -> None:
        """Free the room of the bytes."""
        self._in_flight.count -= self.num_bytes

    def _patience_s(self) -> float:
        """Return how long to wait for the next bytes."""
        allowed_s = self._settings.body_timeout_s + self.num_bytes / self._settings.min_body_bytes_per_s
        return min(self._settings.idle_timeout_s, max(self._start + allowed_s - time.monotonic(), 0.0))

    def _count(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self._in_flight.count += num_bytes
        if self.num_bytes > self._settings.max_body_bytes:
            raise self._too_large()
        if self._in_flight.count > self._in_flight.limit:
            raise Refusal(429, "too many uploads at once: try again", code="overloaded", retry_after_s=1)

    def _too_large(self) -> Refusal:
        limit = f"{self._settings.max_body_bytes / 2**20:g} MiB"
        message = f"the body is larger than {limit}; compress the sound (Opus, MP3) or cut it"
        return Refusal(413, message, param="file", code="body_too_large")
