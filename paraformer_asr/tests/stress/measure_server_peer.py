"""Loads this service and FunASR's own server with the same weights, in turn on the same core.

    python tests/stress/measure_server_peer.py --peer-python VENV/bin/python --out peer.json

VENV has `funasr`, `torch`, `fastapi`, `uvicorn` and `python-multipart`. The weights are random: a SAN-M Paraformer of
AN4's size in FunASR's layout. Each server runs alone on core 0, the generator on core 1. Clients wait for their
answers, and the health route is asked 20 times a second.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from loading.clients import Connection, Sound, closed_loop, percentiles, watching_health
from loading.server import on_core

SIZE = "model.encoder.num_layers=6 model.encoder.width=160 model.encoder.ffn_width=640 model.encoder.num_heads=4"
SIZE += " model.decoder.num_layers=2 model.decoder.ffn_width=640 model.decoder.num_heads=4 model.vocab_size=200"
PEER = "import sys; from funasr.bin.server import main; sys.exit(main())"
MODEL = "custom"
"""Name of a model that FunASR's server takes from a folder."""
SERVERS = {"this": "/healthz", "funasr": "/health"}
"""Server → the route of its health."""


def save_weights(folder: Path) -> None:
    """Write a model with random weights as FunASR does."""
    from asr import api
    from asr.profiling.random_model import build_untrained_transcriber
    from asr.published.funasr import save_funasr

    transcriber = build_untrained_transcriber(
        api.load_config("paraformer_large", [*SIZE.split(), "model.dtype=float32", "data.root=."])
    )
    folder.mkdir()
    save_funasr(folder, transcriber.config, transcriber.tokenizer, transcriber.cmvn, transcriber.variables)


@contextlib.contextmanager
def running(name: str, weights: Path, port: int, peer_python: str):
    """Start a server, wait until it answers a request, and yield."""
    if name == "this":
        command = [sys.executable, "-m", "asr.serve", "--model", weights, "--port", port, "--name", MODEL]
        environment = os.environ
    else:
        command = [peer_python, "-c", PEER, "--host", "127.0.0.1", "--device", "cpu", "--port", port]
        command += ["--model-path", weights, "--model", MODEL]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [*on_core(0), *map(str, command)]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while asyncio.run(Connection(port).ask(Sound(1.0, 0, MODEL).request))[0] != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name}: the server did not start: {' '.join(words)}")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(60)


async def load(port: int, route: str, clients: int, seconds: float) -> dict:
    """Return the figures of clients that wait for their answers."""
    sounds = [Sound(length, seed, MODEL) for seed, length in enumerate(np.linspace(1, 8, 20))]
    async with watching_health(port, route) as health:
        result = await closed_loop(port, sounds, clients, seconds=seconds)
    report = result.report()
    return {name: report[name] for name in ("requests_per_s", "rtfx", "latency_ms", "statuses")} | {
        "health_ms": percentiles(health)
    }


def main() -> None:
    """Measure both and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True, metavar="PYTHON", help="of the environment that has funasr")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run (default: 20)")
    parser.add_argument("--repeats", type=int, default=2, help="of both servers, in turn (default: 2)")
    parser.add_argument("--port", type=int, default=18100)
    parser.add_argument("--out", type=Path, help="file of the figures, JSON")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    report: dict = {name: {str(number): [] for number in arguments.clients} for name in SERVERS}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights"
        save_weights(weights)
        for _ in range(arguments.repeats):
            for name, route in SERVERS.items():
                with running(name, weights, arguments.port, arguments.peer_python):
                    asyncio.run(load(arguments.port, route, 8, arguments.seconds / 4))  # warms up
                    for number in arguments.clients:
                        figures = asyncio.run(load(arguments.port, route, number, arguments.seconds))
                        report[name][str(number)].append(figures)
    text = json.dumps(report, indent=1)
    if arguments.out:
        arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
