"""Loads the service of a small U-Net on this machine, and reports throughput, latency and memory.

    python tests/stress/measure_load.py --out load.json

Weights are random: the masks mean nothing, their cost is that of a trained model. Server and workers run on core 0, the
generator on core 1, over the loopback interface. Parts (`--parts`):

    batching   32 clients that wait for their answers, with batches and one by one, by turns; images of one window
    overload   arrivals at random at multiples of the capacity, whether or not answers come; a tenth of the images go by
               windows; latency counts from the planned time, so that a stall of the generator counts too
    memory     10,000 requests; memory of the server with its workers

Throughout, /healthz is asked 20 times a second.
"""

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from loading.clients import Load, Picture, closed_loop, open_loop, percentiles, watching_health
from loading.server import Server, save_model

PARTS = ("batching", "overload", "memory")
BATCHED, SINGLE = "1,2,4", "1"
"""Batch sizes: the default on a CPU, and no batches."""


def compare_batching(servers: dict[str, Server], pictures: list[Picture], seconds: float, repeats: int) -> dict:
    """Return the figures of 32 clients with batches and without, alternated."""

    async def run(server: Server) -> dict:
        before = server.processor_s()
        async with watching_health(server.port) as health:
            load = await closed_loop(server.port, pictures, 32, seconds=seconds)
        spent_s = {part: end_s - before[part] for part, end_s in server.processor_s().items()}
        cost_ms = {part: round(1000 * part_s / load.statuses[200], 2) for part, part_s in spent_s.items()}
        return load.report() | {"healthz_ms": percentiles(health), "processor_ms_per_request": cost_ms}

    rounds = [{sizes: asyncio.run(run(server)) for sizes, server in servers.items()} for _ in range(repeats + 1)]
    runs = {sizes: [one[sizes] for one in rounds[1:]] for sizes in servers}  # the first round warms up
    medians = {sizes: float(np.median([one["requests_per_s"] for one in runs[sizes]])) for sizes in servers}
    return {
        "with_batches": runs[BATCHED],
        "one_by_one": runs[SINGLE],
        "requests_per_s": {"with_batches": medians[BATCHED], "one_by_one": medians[SINGLE]},
        "ratio": round(medians[BATCHED] / medians[SINGLE], 2),
    }


def overload(server: Server, pictures: list[Picture], seconds: float) -> dict:
    """Return the figures of 32 clients that wait, whose rate is the capacity, and those at multiples of it."""

    async def run(load: Coroutine[Any, Any, Load]) -> dict:
        async with watching_health(server.port) as health:
            report = (await load).report()
        return report | {"healthz_ms": percentiles(health), "memory_mib": round(server.memory_mib(), 1)}

    closed = asyncio.run(run(closed_loop(server.port, pictures, 32, seconds=seconds)))
    rates = {str(factor): factor * closed["requests_per_s"] for factor in (0.5, 0.8, 1, 2, 4)}
    arrivals = {name: asyncio.run(run(open_loop(server.port, pictures, rate, seconds))) for name, rate in rates.items()}
    return {"32 clients": closed, **arrivals}


def watch_memory(server: Server, pictures: list[Picture], requests: int) -> list[float]:
    """Return the memory after each tenth of the requests."""
    memory = []
    for _ in range(10):
        load = asyncio.run(closed_loop(server.port, pictures, 8, requests=requests // 10))
        assert load.statuses[200] == requests // 10, load.statuses
        memory.append(round(server.memory_mib(), 1))
    return memory


def main() -> None:
    """Run the parts and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run (default: 20)")
    parser.add_argument("--repeats", type=int, default=3, help="runs with and without batches (default: 3)")
    parser.add_argument("--requests", type=int, default=10_000, help="of the part memory")
    parser.add_argument(
        "--warm-up", type=float, default=30.0, help="seconds of load before the first run (default: 30)"
    )
    parser.add_argument("--side", type=int, default=64, help="of a window, in pixels (default: 64)")
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage (default: 8)")
    parser.add_argument("--port", type=int, default=18000, help="the first of two ports")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--out", type=Path, help="file of the figures, JSON")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    side = arguments.side
    pictures = [Picture(side - seed % 3, side - seed, seed) for seed in range(18)]
    pictures += [Picture(4 * side, 4 * side, seed) for seed in range(2)]  # a tenth goes by windows
    report: dict = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model = Path(folder) / "model"
        save_model(model, side, arguments.width)
        sizes = (BATCHED, SINGLE) if "batching" in arguments.parts else (BATCHED,)
        servers = {one: Server(model, arguments.port + place, one) for place, one in enumerate(sizes)}
        for server in servers.values():
            stack.callback(server.stop)
        server = servers[BATCHED]
        report["start_s"] = round(server.start_s, 1)
        for one in servers.values():
            asyncio.run(closed_loop(one.port, pictures, 32, seconds=arguments.warm_up))
        if "batching" in arguments.parts:
            report["batching"] = compare_batching(servers, pictures[:18], arguments.seconds, arguments.repeats)
        if "overload" in arguments.parts:
            report["overload"] = overload(server, pictures, arguments.seconds)
        if "memory" in arguments.parts:
            report["memory_mib"] = watch_memory(server, pictures[:18], arguments.requests)
        report["compilations_after_ready"] = server.metric("seg_compilations_after_ready")
    text = json.dumps(report, indent=1)
    if arguments.out:
        arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
