"""Measure how long a manifest of many lines over few sound files takes to open, and what memory it takes.

python tests/stress/measure_manifest.py --lines 200000 --files 10
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from asr.config import Config, DataConfig
from asr.data import build_dataset
from asr.profiling.process_memory import resident_bytes

RATE_HZ = 16000


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=200_000, help="default: 200,000")
    parser.add_argument("--files", type=int, default=10, help="sound files of 2 s (default: 10)")
    parser.add_argument("--stated", action="store_true", help="the manifest states the lengths")
    return parser.parse_args()


def write_manifest(root: Path, num_lines: int, num_files: int, stated: bool) -> None:
    """Write sound files and a manifest of them."""
    rng = np.random.default_rng(0)
    for i in range(num_files):
        soundfile.write(root / f"{i}.flac", rng.normal(0, 0.1, 2 * RATE_HZ), RATE_HZ)
    with (root / "train.jsonl").open("w") as file:
        for k in range(num_lines):
            line = {"utt_id": f"utterance_{k:07d}", "audio_filepath": f"{k % num_files}.flac", "text": f"words of {k}"}
            file.write(json.dumps(line | ({"duration": 2.0} if stated else {})) + "\n")


def main() -> None:
    """Write, open, print."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), arguments.lines, arguments.files, arguments.stated)
        config = Config(data=DataConfig(dataset="jsonl", root=folder, train_split="train.jsonl"))
        before, start, start_cpu = resident_bytes(), time.perf_counter(), time.process_time()
        dataset = build_dataset(config, "train")
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        megabytes = (resident_bytes() - before) / 1e6
    print(
        f"{len(dataset):,} lines over {arguments.files} files: {seconds:.1f} s, CPU {cpu_s:.1f} s, {megabytes:.0f} MB"
    )


if __name__ == "__main__":
    main()
