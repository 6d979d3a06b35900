"""Clients of the service: what they send, how they wait, and what they note."""

import asyncio
import collections
import contextlib
import dataclasses
import io
import json
import random
import time

import numpy as np
import soundfile

RATE_HZ, SHORT_S, RETRY_AFTER_S = 16000, 8, 1


@dataclasses.dataclass
class Load:
    """What was sent and what came of it; seconds.

    Attributes:
        latencies: those of answers with a text, by the class of the sound.
    """

    latencies: dict[str, list[float]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    refused: list[float] = dataclasses.field(default_factory=list)
    statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    sound_s: float = 0.0
    seconds: float = 0.0
    wrong: int = 0

    def report(self) -> dict:
        """Return the figures."""
        number = max(sum(self.statuses.values()), 1)
        return {
            "requests_per_s": round(self.statuses[200] / self.seconds, 1),
            "rtfx": round(self.sound_s / self.seconds, 1),
            "latency_ms": {length: percentiles(latencies) for length, latencies in sorted(self.latencies.items())},
            "share_429": round(self.statuses[429] / number, 3),
            "latency_of_429_ms": percentiles(self.refused),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "wrong_texts": self.wrong,
        }


def percentiles(seconds: list[float]) -> dict[str, float] | None:
    """Return p50, p95 and p99 in milliseconds."""
    if not seconds:
        return None
    return {f"p{p}": round(1000 * float(np.percentile(seconds, p)), 1) for p in (50, 95, 99)}


class Sound:
    """A sound as a whole HTTP request; `text` is that of its first answer."""

    def __init__(self, seconds: float, seed: int, model: str = "load"):
        self.seconds, self.text = seconds, None
        tones_hz = np.random.default_rng(seed).uniform(150, 3500, 1000)
        time_n = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
        self.wave_n = (0.3 * np.sin(2 * np.pi * tones_hz[(time_n * 10).astype(int)] * time_n)).astype(np.float32)
        file = io.BytesIO()
        soundfile.write(file, self.wave_n, RATE_HZ, "PCM_16", format="WAV")
        part = b'--b\r\nContent-Disposition: form-data; name="'
        body = (
            part
            + f'model"\r\n\r\n{model}\r\n'.encode()
            + part
            + b'file"; filename="a.wav"\r\n\r\n'
            + file.getvalue()
            + b"\r\n--b--\r\n"
        )
        head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
        head += "Content-Type: multipart/form-data; boundary=b\r\n"
        self.body, self.request = body, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


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


async def send(connection: Connection, sound: Sound, planned: float, load: Load) -> int:
    """Send a sound and note what came of it; return the status."""
    status, body = await connection.ask(sound.request)
    latency = time.perf_counter() - planned
    load.statuses[status] += 1
    if status == 200:
        load.latencies["up to 8 s" if sound.seconds <= SHORT_S else "longer"].append(latency)
        load.sound_s += sound.seconds
        text = json.loads(body)["text"]
        sound.text = text if sound.text is None else sound.text
        load.wrong += text != sound.text
    elif status == 429:
        load.refused.append(latency)
    return status


async def closed_loop(
    port: int, sounds: list[Sound], clients: int, *, seconds: float = 1e9, requests: int = 10**9
) -> Load:
    """Let each client send its next sound when the answer to the last one has come."""
    load, start, rng = Load(), time.perf_counter(), random.Random(0)

    async def client() -> None:
        nonlocal requests
        with contextlib.closing(Connection(port)) as connection:
            while time.perf_counter() - start < seconds and requests > 0:
                requests -= 1
                if await send(connection, rng.choice(sounds), time.perf_counter(), load) == 429:
                    await asyncio.sleep(RETRY_AFTER_S)

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - start
    return load


async def open_loop(port: int, sounds: list[Sound], rate: float, seconds: float) -> Load:
    """Send sounds at random times, `rate` of them per second on average, each on a connection of its own."""
    load, rng, tasks = Load(), random.Random(0), set()
    start = planned = time.perf_counter()

    async def one(planned: float) -> None:
        with contextlib.closing(Connection(port)) as connection:
            await send(connection, rng.choice(sounds), planned, load)

    while (planned := planned + rng.expovariate(rate)) < start + seconds:
        if (rest_s := planned - time.perf_counter()) > 0:  # one that is late sends at once, without a turn of the loop
            await asyncio.sleep(rest_s)
        tasks.add(asyncio.create_task(one(planned)))
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - start
    return load


@contextlib.asynccontextmanager
async def watching_health(port: int, route: str = "/healthz"):
    """Ask for the health 20 times a second; yield the list of the latencies."""
    latencies: list[float] = []

    async def watch() -> None:
        with contextlib.closing(Connection(port)) as connection:
            planned = time.perf_counter()
            while True:
                status, _ = await connection.ask(f"GET {route} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                latencies.append(time.perf_counter() - planned if status == 200 else float("inf"))
                planned = max(planned + 0.05, time.perf_counter())
                await asyncio.sleep(max(planned - time.perf_counter(), 0))

    task = asyncio.create_task(watch())
    try:
        yield latencies
    finally:
        task.cancel()
        await asyncio.wait([task])


async def converse(port: int, sound: Sound) -> bool:
    """Send a sound over FunASR's websocket; return whether a text came."""
    import websockets

    async with websockets.connect(f"ws://127.0.0.1:{port}/", ping_interval=None) as socket:
        await socket.send(json.dumps({"mode": "offline", "audio_fs": RATE_HZ, "wav_name": "x", "is_speaking": True}))
        pcm = (sound.wave_n * 32767).astype("<i2").tobytes()
        for start in range(0, len(pcm), 1920):
            await socket.send(pcm[start : start + 1920])
        await socket.send(json.dumps({"is_speaking": False}))
        return "text" in json.loads(await asyncio.wait_for(socket.recv(), 60))
