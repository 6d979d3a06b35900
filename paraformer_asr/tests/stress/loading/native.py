"""Uploads by `wrk`, a generator in C: it keeps its times where clients in Python are at their limit."""

import asyncio
import json
from pathlib import Path

from loading.server import on_core

CONNECTIONS = 240
"""A few less than the server accepts."""


async def upload_natively(url: str, bodies: list[Path], pause_ms: int, seconds: float) -> dict:
    """Return {status: rate and latencies in milliseconds} of connections that pause between answers."""
    options = ["-t", CONNECTIONS, "-c", CONNECTIONS, "-d", round(seconds), "--timeout", 60]
    options += ["-s", Path(__file__).with_name("uploads.lua")]
    words = [*on_core(1), "wrk", *options, url, "--", pause_ms, *bodies]
    process = await asyncio.create_subprocess_exec(*map(str, words), stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"wrk ended with code {process.returncode}")
    return json.loads(output.splitlines()[-1])
