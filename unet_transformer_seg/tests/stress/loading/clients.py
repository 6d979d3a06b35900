"""Clients of the service: what they send, how they wait, and what they note."""

import asyncio
import collections
import contextlib
import dataclasses
import io
import random
import time

import numpy as np
from PIL import Image

RETRY_AFTER_S = 1
WINDOW_MEGAPIXELS = 64 * 64 / 1e6


@dataclasses.dataclass
class Load:
    """What was sent and what came of it; seconds.

    Attributes:
        latencies: those of answers with a mask, by the class of the image.
    """

    latencies: dict[str, list[float]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    refused: list[float] = dataclasses.field(default_factory=list)
    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    megapixels: float = 0.0
    seconds: float = 0.0
    wrong: int = 0

    def report(self) -> dict:
        """Return the figures."""
        number = max(sum(self.statuses.values()), 1)
        return {
            "requests_per_s": round(self.statuses[200] / self.seconds, 1),
            "megapixels_per_s": round(self.megapixels / self.seconds, 2),
            "latency_ms": {size: percentiles(latencies) for size, latencies in sorted(self.latencies.items())},
            "share_429": round(self.statuses[429] / number, 3),
            "latency_of_429_ms": percentiles(self.refused),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "wrong_masks": self.wrong,
        }


def percentiles(seconds: list[float]) -> dict[str, float] | None:
    """Return p50, p95 and p99 in milliseconds."""
    if not seconds:
        return None
    return {f"p{p}": round(1000 * float(np.percentile(seconds, p)), 1) for p in (50, 95, 99)}


class Picture:
    """An image as a whole HTTP request; `mask` is that of its first answer."""

    def __init__(self, height: int, width: int, seed: int):
        self.megapixels, self.mask = height * width / 1e6, None
        coarse_hwc = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse_hwc).resize((width, height)).save(file, "JPEG")
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        body += file.getvalue() + b"\r\n--b--\r\n"
        head = "POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        self.request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """A connection to the server that is opened when it is needed."""

    def __init__(self, port: int):
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body; 0 if the connection was lost."""
        try:
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.writer.write(request)
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await self.reader.readexactly(length)
            if b"connection: close" in head:
                self.close()
            return int(head.split()[1]), body
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return 0, b""

    def close(self) -> None:
        """Close it."""
        if self.writer:
            self.writer.close()
        self.writer = None


async def send(connection: Connection, picture: Picture, planned: float, load: Load) -> int:
    """Send an image and note what came of it; return the status."""
    status, body = await connection.ask(picture.request)
    latency = time.perf_counter() - planned
    load.statuses[status] += 1
    if status == 200:
        load.latencies["by windows" if picture.megapixels > WINDOW_MEGAPIXELS else "one window"].append(latency)
        load.megapixels += picture.megapixels
        picture.mask = picture.mask or body
        load.wrong += body != picture.mask
    elif status == 429:
        load.refused.append(latency)
    return status


async def closed_loop(
    port: int, pictures: list[Picture], clients: int, *, seconds: float = 1e9, requests: int = 10**9
) -> Load:
    """Let each client send its next image when the answer to the last one has come."""
    load, start, rng = Load(), time.perf_counter(), random.Random(0)

    async def client() -> None:
        nonlocal requests
        with contextlib.closing(Connection(port)) as connection:
            while time.perf_counter() - start < seconds and requests > 0:
                requests -= 1
                if await send(connection, rng.choice(pictures), time.perf_counter(), load) == 429:
                    await asyncio.sleep(RETRY_AFTER_S)

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - start
    return load


async def open_loop(port: int, pictures: list[Picture], rate: float, seconds: float) -> Load:
    """Send images at random times, `rate` of them per second on average, each on a connection of its own."""
    load, rng, tasks = Load(), random.Random(0), set()
    start = planned = time.perf_counter()

    async def one(planned: float) -> None:
        with contextlib.closing(Connection(port)) as connection:
            await send(connection, rng.choice(pictures), planned, load)

    while (planned := planned + rng.expovariate(rate)) < start + seconds:
        if (rest_s := planned - time.perf_counter()) > 0:  # one that is late sends at once, without a turn of the loop
            await asyncio.sleep(rest_s)
        tasks.add(asyncio.create_task(one(planned)))
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - start
    return load


@contextlib.asynccontextmanager
async def watching_health(port: int):
    """Ask for the health 20 times a second; yield the list of the latencies."""
    latencies: list[float] = []

    async def watch() -> None:
        with contextlib.closing(Connection(port)) as connection:
            planned = time.perf_counter()
            while True:
                status, _ = await connection.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                latencies.append(time.perf_counter() - planned if status == 200 else float("inf"))
                planned = max(planned + 0.05, time.perf_counter())
                await asyncio.sleep(max(planned - time.perf_counter(), 0))

    task = asyncio.create_task(watch())
    try:
        yield latencies
    finally:
        task.cancel()
        await asyncio.wait([task])
