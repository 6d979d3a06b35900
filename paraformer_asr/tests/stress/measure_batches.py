"""Measures what a batch of the model can gain: the time of one row, times n, over the time of n rows.

    taskset -c 0 python tests/stress/measure_batches.py         one core
    python tests/stress/measure_batches.py --rows 1 8 16 32     what the machine has, such as a GPU

The model has AN4's size and random weights. A row is a whole segment: its features, the network and its decoding,
without HTTP, decoding of files and JSON. The ratio bounds what batches gain in the service.
"""

import argparse
import json
import time

import jax
import numpy as np

from asr import api
from asr.inference.shapes import Shape
from asr.inference.transcriber import Transcriber
from asr.profiling.random_model import build_untrained_transcriber


def time_batch(transcriber: Transcriber, num_rows: int, seconds: float, repeats: int) -> float:
    """Return the shortest of some times of a batch, in milliseconds; the first one compiles."""
    rate_hz = transcriber.config.features.sample_rate_hz
    transcriber.warm_up([Shape(num_rows, round(seconds * rate_hz))])
    noise_bn = 0.1 * np.random.default_rng(0).standard_normal((num_rows, round(seconds * rate_hz))).astype(np.float32)
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        transcriber.start(list(noise_bn))()
        times.append(time.perf_counter() - start)
    return 1000 * min(times[2:])


def main() -> None:
    """Print the time of each batch, and what it gains."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="an4_small", help="name of a packaged config (default: an4_small)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="of a batch, from 1 up")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.5, 3, 6], help="lengths of the sounds")
    parser.add_argument("--repeats", type=int, default=20, help="times of each batch; the shortest counts")
    arguments = parser.parse_args()
    transcriber = build_untrained_transcriber(
        api.load_config(arguments.config, ["data.root=.", "model.vocab_size=200"])
    )
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    for seconds in arguments.seconds:
        times = {rows: time_batch(transcriber, rows, seconds, arguments.repeats) for rows in arguments.rows}
        for rows, milliseconds in times.items():
            gain = times[arguments.rows[0]] * rows / arguments.rows[0] / milliseconds
            report = {"sound_s": seconds, "rows": rows, "ms": round(milliseconds, 2), "gain": round(gain, 2)}
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
