"""Times a chunk of a streaming paraformer-large with this package and with FunASR, in turn on the same core.

    python tests/stress/measure_stream_peer.py --peer-python VENV/bin/python

The weights are random, the sound is noise that swells and fades, a chunk has 600 ms and a look-ahead of 300 ms. Here
one step takes 1, 4 or 16 streams; FunASR takes one chunk of one stream after the other, so that n streams take n times
as long. The first chunks of each process are not counted. `--hour` streams one hour here and reports the time of a
chunk and the memory of the process at its begin and its end.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from loading.server import on_core

RATE_HZ, CHUNK_S = 16000, 0.6
CHUNK = int(CHUNK_S * RATE_HZ)
STREAMS = (1, 4, 16)
WARM_UP = 4
SETTINGS = "model.name=streaming model.encoder.scan=false model.vocab_size=8404 model.dtype=float32 data.root=."
SETTINGS += " model.predictor.initial_bias=-1.5"


def sound(number: int, num_chunks: int) -> np.ndarray:
    """Return int16[n], noise that swells and fades, another for each number."""
    random = np.random.default_rng(number)
    swell_n = np.sin(np.arange(num_chunks * CHUNK) * random.uniform(0.0003, 0.001)) ** 2
    return (5000 * swell_n * random.standard_normal(num_chunks * CHUNK)).astype(np.int16)


def save_model(folder: Path, settings: list[str]) -> None:
    """Write a streaming paraformer-large with random weights in FunASR's layout."""
    from asr import api
    from asr.profiling.random_model import build_untrained_transcriber
    from asr.published.funasr import save_funasr

    transcriber = build_untrained_transcriber(api.load_config("paraformer_large", [*SETTINGS.split(), *settings]))
    save_funasr(folder, transcriber.config, transcriber.tokenizer, transcriber.cmvn, transcriber.variables)


def measure_here(folder: Path, num_chunks: int, dtype: str, num_streams: int) -> dict:
    """Return the figures of one step for `num_streams` streams."""
    import asr
    from asr.inference.stream import StreamSession, stream_programs

    transcriber = asr.load(folder, overrides=[f"inference.dtype={dtype}"])
    programs = stream_programs(transcriber, transcriber.config.model.streaming, num_streams)
    began = time.monotonic()
    programs.warm_up()
    compile_s, layout = time.monotonic() - began, transcriber.config.model.streaming.layout
    sessions = [StreamSession(transcriber, layout) for _ in range(num_streams)]
    works = [session.accept(sound(number, num_chunks + 1), final=False) for number, session in enumerate(sessions)]
    seconds, num_tokens = [], 0
    for _ in range(num_chunks):
        began = time.monotonic()
        step = {slot: next(work) for slot, work in enumerate(works)}
        for slot, recognition in programs.run({slot: work.chunk for slot, work in step.items()}).items():
            num_tokens += len(recognition.ids)
            step[slot].take(recognition)
        seconds.append(time.monotonic() - began)
    return figures(seconds, num_tokens / num_streams) | {
        "streams": num_streams,
        "dtype": transcriber.config.model.dtype,
        "state_mib_per_stream": round(programs.bytes_per_stream / 2**20, 2),
        "compile_s": round(compile_s, 1),
    }


def measure_hour(folder: Path, num_chunks: int, dtype: str, num_streams: int) -> dict:
    """Return the time of a chunk, and the memory, at the begin and at the end of an hour of one stream."""
    import asr

    transcriber = asr.load(folder, overrides=[f"inference.dtype={dtype}"])
    stream, wave_n = transcriber.stream(), sound(0, 100)
    stream.warm_up()
    seconds, memory_mib = [], []
    for number in range(num_chunks):
        start = number % 100 * CHUNK
        began = time.monotonic()
        stream.push(wave_n[start : start + CHUNK])
        seconds.append(time.monotonic() - began)
        memory_mib.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20)
    tenth = num_chunks // 10
    return {
        "hours": round(num_chunks * CHUNK_S / 3600, 2),
        "first_tenth_ms": round(1000 * statistics.median(seconds[WARM_UP:tenth])),
        "last_tenth_ms": round(1000 * statistics.median(seconds[-tenth:])),
        "memory_mib": [memory_mib[tenth], memory_mib[-1]],
        "characters": len(stream.text),
    }


def measure_funasr(folder: Path, num_chunks: int, dtype: str, num_streams: int) -> dict:
    """Return the figures of FunASR's chunks of one stream."""
    import torch
    from funasr import AutoModel

    torch.set_num_threads(1)
    model = AutoModel(model=str(folder), device="cpu", ncpu=1, disable_update=True, disable_pbar=True, disable_log=True)
    options = {"chunk_size": [0, 10, 5], "encoder_chunk_look_back": 4, "decoder_chunk_look_back": 1}
    seconds, cache, wave_n = [], {}, sound(0, num_chunks).astype(np.float32) / 32768
    for number in range(num_chunks):
        piece = wave_n[number * CHUNK : (number + 1) * CHUNK]
        began = time.monotonic()
        model.generate(input=piece, cache=cache, is_final=False, **options)
        seconds.append(time.monotonic() - began)
    return figures(seconds, float("nan")) | {"streams": 1}


def figures(seconds: list[float], num_tokens: float) -> dict:
    """Return what is reported of a side."""
    counted = seconds[WARM_UP:]
    return {
        "chunk_ms": round(1000 * statistics.median(counted), 1),
        "slowest_ms": round(1000 * max(counted), 1),
        "tokens": round(num_tokens, 1),
        "peak_mib": peak_mib(),
    }


def peak_mib() -> int:
    """Return the largest memory of this process; that of the one that started it does not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


SIDES = {"here": measure_here, "hour": measure_hour, "funasr": measure_funasr}


def run(side: str, python: str, arguments: argparse.Namespace, num_streams: int = 1, dtype: str = "float32") -> dict:
    """Return the figures of one side, in a process of its own on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if side == "funasr":
        environment.pop("PYTHONPATH", None)
    command = [*on_core(arguments.core), python, __file__, "--side", side, "--folder", str(arguments.folder)]
    command += ["--chunks", str(arguments.chunks), "--streams", str(num_streams), "--dtype", dtype]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(arguments: argparse.Namespace) -> None:
    """Print the figures of both sides, in turn."""
    for _ in range(arguments.repeats):
        peer = run("funasr", arguments.peer_python, arguments)
        print(json.dumps({"funasr": peer}), flush=True)
        for num_streams in STREAMS:
            here = run("here", sys.executable, arguments, num_streams, arguments.dtype)
            ratio = here["chunk_ms"] / (num_streams * peer["chunk_ms"])
            print(json.dumps({"here": here, "ratio": round(ratio, 3)}), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", metavar="PYTHON", help="of the environment that has funasr")
    parser.add_argument("--chunks", type=int, default=40, help="of each stream (default: 40)")
    parser.add_argument("--repeats", type=int, default=1, help="of all, in turn (default: 1)")
    parser.add_argument("--dtype", default="float32", help="ours (default: float32)")
    parser.add_argument("--core", type=int, default=0, help="that both run on (default: 0)")
    parser.add_argument("--hour", action="store_true", help="stream one hour here instead")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the model's config")
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--streams", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        options = arguments.folder, arguments.chunks, arguments.dtype, arguments.streams
        print(json.dumps(SIDES[arguments.side](*options)))
        return
    with tempfile.TemporaryDirectory() as name:
        arguments.folder = Path(name)
        save_model(arguments.folder, arguments.set)
        if arguments.hour:
            arguments.chunks = int(3600 / CHUNK_S)
            print(json.dumps(run("hour", sys.executable, arguments, dtype=arguments.dtype)))
        else:
            compare(arguments)


if __name__ == "__main__":
    main()
