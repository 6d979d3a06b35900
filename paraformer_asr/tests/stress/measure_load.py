"""Loads the service of a model of AN4's size on this machine, and reports throughput, latency and memory.

    python tests/stress/measure_load.py --out load.json

Weights are random: the text means nothing, its cost is that of a trained model. Server and decoders run on core 0, the
generator on core 1, over the loopback interface. Parts (`--parts`):

    batching   32 clients that wait for their answers, with batches and one by one, by turns
    mixed      32 clients that wait, then arrivals at random; a tenth of the sounds have 60 s
    overload   arrivals at random at multiples of the capacity, whether or not answers come; latency counts from the
               planned time, so that a stall of the generator counts too
    refusals   240 connections that pause between answers, shorter and shorter; needs `wrk`, which takes less of its
               core than Python's clients (`apt-get install wrk`)
    memory     10,000 requests and 1,000 websocket conversations; memory of the server with its decoders

Throughout, /healthz is asked 20 times a second.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loading.clients import Load, Sound, closed_loop, converse, open_loop, percentiles, watching_health
from loading.native import upload_natively
from loading.server import Server, save_model

PARTS = ("batching", "mixed", "overload", "refusals", "memory")
BATCHED, SINGLE = 0, 1
"""Values of the limit `batch_rows`: as the server chooses, and no batches."""


def compare_batching(servers: dict[int, Server], sounds: list[Sound], seconds: float, repeats: int) -> dict:
    """Return the figures of 32 clients with batches and without, alternated."""

    async def run(server: Server) -> dict:
        before = server.processor_s()
        async with watching_health(server.port) as health:
            load = await closed_loop(server.port, sounds, 32, seconds=seconds)
        spent_s = {part: end_s - before[part] for part, end_s in server.processor_s().items()}
        cost_ms = {part: round(1000 * part_s / load.statuses[200], 2) for part, part_s in spent_s.items()}
        return load.report() | {"healthz_ms": percentiles(health), "processor_ms_per_request": cost_ms}

    rounds = [{rows: asyncio.run(run(server)) for rows, server in servers.items()} for _ in range(repeats + 1)]
    runs = {rows: [one[rows] for one in rounds[1:]] for rows in servers}  # the first round warms up
    medians = {rows: float(np.median([one["requests_per_s"] for one in runs[rows]])) for rows in servers}
    return {
        "with_batches": runs[BATCHED],
        "one_by_one": runs[SINGLE],
        "requests_per_s": {"with_batches": medians[BATCHED], "one_by_one": medians[SINGLE]},
        "ratio": round(medians[BATCHED] / medians[SINGLE], 2),
    }


def overload(
    server: Server, sounds: list[Sound], seconds: float, factors: Sequence[float] = (0.5, 0.8, 1, 2, 4)
) -> dict:
    """Return the figures of 32 clients that wait, whose rate is the capacity, and those at multiples of it."""

    async def run(load: Coroutine[Any, Any, Load]) -> dict:
        async with watching_health(server.port) as health:
            report = (await load).report()
        return report | {"healthz_ms": percentiles(health), "memory_mib": round(server.memory_mib(), 1)}

    closed = asyncio.run(run(closed_loop(server.port, sounds, 32, seconds=seconds)))
    rates = {str(factor): factor * closed["requests_per_s"] for factor in factors}
    arrivals = {name: asyncio.run(run(open_loop(server.port, sounds, rate, seconds))) for name, rate in rates.items()}
    return {"32 clients": closed, **arrivals}


def count_refusals(server: Server, sounds: list[Sound], folder: Path, seconds: float) -> dict:
    """Return the rates and latencies by status, for pauses that become shorter."""
    if not shutil.which("wrk"):
        return {"skipped": "wrk is not installed"}
    url = f"http://127.0.0.1:{server.port}/v1/audio/transcriptions"
    bodies = [folder / f"body_{place}" for place in range(len(sounds))]
    for body, sound in zip(bodies, sounds, strict=True):
        body.write_bytes(sound.body)

    async def run(pause_ms: int) -> dict:
        async with watching_health(server.port) as health:
            answers = await upload_natively(url, bodies, pause_ms, seconds)
        return answers | {"healthz_ms": percentiles(health)}

    return {f"pause of {pause_ms} ms": asyncio.run(run(pause_ms)) for pause_ms in (4000, 1500, 500, 250)}


def watch_memory(server: Server, requests: int, conversations: int) -> dict:
    """Return the memory after each tenth of the requests, and of the conversations."""
    sounds = [Sound(0.3 + 0.1 * i, i) for i in range(8)]
    memory: dict[str, list[float]] = {"requests": [], "websockets": []}
    for _ in range(10):
        load = asyncio.run(closed_loop(server.port, sounds, 8, requests=requests // 10))
        assert load.statuses[200] == requests // 10, load.statuses
        memory["requests"].append(round(server.memory_mib(), 1))

    async def some() -> list[bool]:
        return await asyncio.gather(*(converse(server.port, sounds[i % 8]) for i in range(10)))

    for number in range(conversations // 10):
        assert all(asyncio.run(some()))
        if (number + 1) % max(conversations // 100, 1) == 0:
            memory["websockets"].append(round(server.memory_mib(), 1))
    return memory


def main() -> None:
    """Run the parts and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run (default: 20)")
    parser.add_argument("--repeats", type=int, default=3, help="runs with and without batches (default: 3)")
    parser.add_argument("--requests", type=int, default=10_000, help="of the part memory")
    parser.add_argument("--conversations", type=int, default=1000, help="of the part memory")
    parser.add_argument(
        "--warm-up", type=float, default=30.0, help="seconds of load before the first run (default: 30)"
    )
    parser.add_argument("--port", type=int, default=18000, help="the first of two ports")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--out", type=Path, help="file of the figures, JSON")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    sounds = [Sound(seconds, seed) for seed, seconds in enumerate(np.linspace(1, 8, 20))]
    report: dict = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model = Path(folder) / "model"
        save_model(model)
        rows = (BATCHED, SINGLE) if "batching" in arguments.parts else (BATCHED,)
        servers = {row: Server(model, arguments.port + place, row) for place, row in enumerate(rows)}
        for server in servers.values():
            stack.callback(server.stop)
        server = servers[BATCHED]
        report["start_s"] = round(server.start_s, 1)
        for one in servers.values():
            asyncio.run(closed_loop(one.port, sounds, 32, seconds=arguments.warm_up))
        report["programs"] = server.metric("asr_compilations")
        if "batching" in arguments.parts:
            report["batching"] = compare_batching(servers, sounds, arguments.seconds, arguments.repeats)
        if "mixed" in arguments.parts:
            long = [Sound(60, seed) for seed in range(2)]  # a tenth of all
            report["mixed"] = overload(server, sounds[:18] + long, arguments.seconds, (0.5, 0.8, 1))
        if "overload" in arguments.parts:
            report["overload"] = overload(server, sounds, arguments.seconds)
        if "refusals" in arguments.parts:
            report["refusals"] = count_refusals(server, sounds, Path(folder), arguments.seconds)
        if "memory" in arguments.parts:
            report["memory_mib"] = watch_memory(server, arguments.requests, arguments.conversations)
        report["compilations_after_ready"] = server.metric("asr_compilations_after_ready")
    text = json.dumps(report, indent=1)
    if arguments.out:
        arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
