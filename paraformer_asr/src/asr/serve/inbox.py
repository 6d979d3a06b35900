"""The messages of a websocket's client."""

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Coroutine, MutableMapping
from typing import Any, TypeVar

from fastapi import WebSocket, WebSocketDisconnect

Result = TypeVar("Result")


class Inbox:
    """The client's messages. While the server works one is read ahead, so that it notices a client that leaves."""

    def __init__(self, websocket: WebSocket):
        self._websocket = websocket
        self._ahead: asyncio.Task | None = None

    async def read(self, patience_s: float, writing: asyncio.Task | None = None) -> MutableMapping[str, Any] | None:
        """Return the next message, or None if there is none for `patience_s`.

        Raises:
            WebSocketDisconnect: the client has left.
            Exception: that of `writing`, which ends before the client does only if it fails.
        """
        reading = self._read_ahead()
        await asyncio.wait(
            {reading, writing} if writing else {reading}, timeout=patience_s, return_when=FIRST_COMPLETED
        )
        if writing and writing.done():
            writing.result()
        if not reading.done():
            return None
        self._ahead, message = None, reading.result()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        return message

    async def while_connected(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of `work`, or cancel it when the client leaves.

        Raises:
            WebSocketDisconnect: the client has left.
        """
        reading, working = self._read_ahead(), asyncio.create_task(work)
        try:
            await asyncio.wait({reading, working}, return_when=FIRST_COMPLETED)
            if reading.done() and reading.result()["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(reading.result()["code"])
            return await working
        finally:
            await cancelled(working)

    def close(self) -> None:
        """Read no more."""
        if self._ahead:
            self._ahead.cancel()

    def _read_ahead(self) -> asyncio.Task:
        self._ahead = self._ahead or asyncio.create_task(self._websocket.receive())
        return self._ahead


async def cancelled(task: asyncio.Task) -> None:
    """Wait until a task has ended, whatever comes of it."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
