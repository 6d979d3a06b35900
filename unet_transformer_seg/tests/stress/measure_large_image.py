"""Segments a generated TIFF that no memory would hold, and prints the peak of the memory above the model.

    python tests/stress/measure_large_image.py --size 40000 30000 --folder /tmp/scan

The image is one channel of waves and noise, written tile by tile. The network is a U-Net of 4 channels with random
weights: the memory of windows, tiles and results is measured, not that of a network.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tifffile

import seg
from seg import api, infer
from seg.classes import make_class_table
from seg.config import Config, DataConfig, InferenceConfig, ModelConfig
from seg.inference.predictor import Predictor
from seg.models import build_model

SIDE = 512


def write_scan(path, height, width):
    """Write a tiled BigTIFF of uint8, compressed with deflate."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 6, (SIDE, SIDE)) for _ in range(8)]
    y, x = np.indices((SIDE, SIDE))

    def tiles():
        for row in range(-(-height // SIDE)):
            for column in range(-(-width // SIDE)):
                waves = np.sin((y + row * SIDE) / 37) * np.sin((x + column * SIDE) / 53)
                yield np.clip(128 + 60 * waves + noise[(row * 7 + column) % 8], 0, 255).astype(np.uint8)

    look = {"photometric": "minisblack", "compression": "zlib", "compressionargs": {"level": 1}}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(tiles(), shape=(height, width), dtype=np.uint8, tile=(SIDE, SIDE), metadata=None, **look)


def save_model(folder):
    """Save a U-Net of two classes with random weights."""
    config = Config(
        model=ModelConfig(name="unet", num_classes=2, base_width=4, depth=2),
        data=DataConfig(size=(SIDE, SIDE), fit="crop"),
        inference=InferenceConfig(overlap=0.0),
    )
    variables = seg.init(build_model(config.model), jax.random.key(0))
    seg.save(Predictor(config, make_class_table(("ground", "cell")), variables), folder, force=True)


def peak_mib():
    """Return the largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Print a line with the memory and the time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(40_000, 30_000), metavar=("H", "W"))
    parser.add_argument("--folder", type=Path, required=True, help="of the image, the model and the results")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    scan, model = arguments.folder / "scan.tif", arguments.folder / "model"
    write_scan(scan, *arguments.size)
    save_model(model)
    loaded, load = {}, api.load

    def load_and_warm_up(*names, **options):
        predictor = load(*names, **options)
        size = predictor.config.inference.batch_size
        weights_bh = np.ones((size, SIDE), np.float32)
        windows_bhwc = np.zeros((size, SIDE, SIDE, 3), np.uint8)
        jax.block_until_ready(predictor.weighted_forward(windows_bhwc, weights_bh, weights_bh))
        loaded.update(mib=peak_mib(), time=time.perf_counter())
        return predictor

    api.load = load_and_warm_up
    max_pixels = min(100_000_000, arguments.size[0] * arguments.size[1] - 1)
    out = arguments.folder / "out"
    sys.argv = ["infer", "--model", str(model), "--out", str(out), str(scan), f"data.max_pixels={max_pixels}"]
    code = infer.main()
    seconds, peak = time.perf_counter() - loaded["time"], peak_mib()
    model_mib = loaded["mib"]
    print(f"model {model_mib:.0f} MiB, peak {peak:.0f} MiB, above it {peak - model_mib:.0f} MiB, {seconds:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
