"""Measures what a batch of the network can gain: the time of one window, times n, over the time of n windows.

    taskset -c 0 python tests/stress/measure_batches.py         one core
    python tests/stress/measure_batches.py --rows 1 8 16 32     what the machine has, such as a GPU

The network is a small U-Net with random weights. A row is a whole window, from bytes to probabilities, without HTTP and
files. The ratio bounds what batches gain in the service.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from loading.server import save_model

from seg import api
from seg.inference.predictor import Predictor


def time_batch(predictor: Predictor, num_rows: int, repeats: int) -> float:
    """Return the shortest of some times of a batch, in milliseconds; the first one compiles."""
    windows_bhwc = np.random.default_rng(0).integers(0, 256, (num_rows, *predictor.tile, 3), np.uint8)
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        jax.block_until_ready(predictor.windows_forward(windows_bhwc))
        times.append(time.perf_counter() - start)
    return 1000 * min(times[2:])


def main() -> None:
    """Print the time of each batch, and what it gains."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="of a batch, from 1 up")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256], help="of a window, in pixels")
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage (default: 8)")
    parser.add_argument("--repeats", type=int, default=20, help="times of each batch; the shortest counts")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder) / "model", side, arguments.width)
            predictor = api.load(Path(folder) / "model")
        times = {rows: time_batch(predictor, rows, arguments.repeats) for rows in arguments.rows}
        for rows, milliseconds in times.items():
            gain = times[arguments.rows[0]] * rows / arguments.rows[0] / milliseconds
            report = {"side": side, "rows": rows, "ms": round(milliseconds, 2), "gain": round(gain, 2)}
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
