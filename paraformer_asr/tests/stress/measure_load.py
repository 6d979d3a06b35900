"""Loads the service of a model of AN4's size on this machine, and reports throughput, latency and memory.

    python tests/stress/measure_load.py --out load.json

Weights are random: the text means nothing, its cost is that of a trained model. Server and decoders run on core 0, the
generator on core 1, over the loopback interface. Parts (`--parts`):

    batching   32 clients that wait for their answers, with batches and one by one, by turns
    overload   arrivals at random at multiples of the capacity, whether or not answers come; latency counts from the
               planned time, so that a stall of the generator counts too
    memory     10,000 requests and 1,000 websocket conversations; memory of the server with its decoders

Throughout, /healthz is asked 20 times a second.
"""

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from loading.clients import Sound, closed_loop, converse, open_loop, percentiles, watching_health
from loading.server import Server, save_model

BATCHED, SINGLE = 0, 1
"""Values of the limit `batch_rows`: as the server chooses, and no batches."""


def compare_batching(servers: dict[int, Server], sounds: list[Sound], seconds: float, repeats: int) -> dict:
    """Return the figures of 32 clients with batches and without, alternated."""

    async def run(server: Server) -> dict:
        async with watching_health(server.port) as health:
            load = await closed_loop(server.port, sounds, 32, seconds=seconds)
        return load.report() | {"healthz_ms": percentiles(health)}

    rounds = [{rows: asyncio.run(run(server)) for rows, server in servers.items()} for _ in range(repeats + 1)]
    runs = {rows: [one[rows] for one in rounds[1:]] for rows in servers}  # the first round warms up
    medians = {rows: float(np.median([one["requests_per_s"] for one in runs[rows]])) for rows in servers}
    return {
        "with_batches": runs[BATCHED],
        "one_by_one": runs[SINGLE],
        "requests_per_s": {"with_batches": medians[BATCHED], "one_by_one": medians[SINGLE]},
        "ratio": round(medians[BATCHED] / medians[SINGLE], 2),
    }


def overload(server: Server, sounds: list[Sound], capacity: float, seconds: float) -> dict:
    """Return the figures at multiples of the capacity."""

    async def run(rate: float) -> dict:
        async with watching_health(server.port) as health:
            load = await open_loop(server.port, sounds, rate, seconds)
        return load.report() | {"healthz_ms": percentiles(health)}

    return {str(factor): asyncio.run(run(factor * capacity)) for factor in (0.5, 0.8, 1, 2, 4)}


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
    parser.add_argument("--port", type=int, default=18000, help="the first of two ports")
    parser.add_argument("--parts", nargs="+", default=["batching", "overload", "memory"])
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
        report["programs"] = server.metric("asr_compilations")
        if "batching" in arguments.parts:
            report["batching"] = compare_batching(servers, sounds, arguments.seconds, arguments.repeats)
        if "overload" in arguments.parts:
            capacity = asyncio.run(closed_loop(server.port, sounds, 32, seconds=arguments.seconds)).report()
            report["capacity"] = capacity
            report["overload"] = overload(server, sounds, capacity["requests_per_s"], arguments.seconds)
        if "memory" in arguments.parts:
            report["memory_mib"] = watch_memory(server, arguments.requests, arguments.conversations)
        report["compilations_after_ready"] = server.metric("asr_compilations_after_ready")
    text = json.dumps(report, indent=1)
    if arguments.out:
        arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
