"""Trains one small model on many arrangements of processes and devices, and compares the losses.

    python tests/stress/check_scaling.py [--json FILE] [--folder FOLDER]

Every arrangement starts real processes on this machine, connected by jax's distributed runtime, and trains the same
steps with the same batches. The losses of each step are compared with those of one process with one device. Then a run
moves: four arrangements go on from the checkpoint of the one before, and every step must have the loss of a run that
was never moved. The table goes to docs/scaling.md.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

CONFIG = """
name: scaling
features: {num_mels: 12, lfr_m: 2, lfr_n: 2}
model:
  encoder: {num_layers: 2, width: 32, num_heads: 2, ffn_width: 64, kernel_size: 3, dropout: 0.1}
  decoder: {num_layers: 1, num_ffn_layers: 0, num_heads: 2, ffn_width: 64, kernel_size: 3}
data:
  num_threads: 1
  num_buckets: 1
  toy: {num_train: 64, num_val: 8, num_letters: 4, max_words: 1, max_word_letters: 3}
  augment: {speeds: [0.9, 1.0], gain_db: 3, num_mel_masks: 1, max_mel_width: 2}
optimizer: {learning_rate: 1e-3, schedule: constant}
training:
  {batch_seconds: 18, row_multiple: 8, num_epochs: 2, ema_decay: 0.9, num_sample_pictures: 0, log_every_steps: 1}
"""
TOLERANCE = 2e-4
"""Sums over devices have another order; the rounding grows from step to step."""

STEP = re.compile(r"step (\d+): loss ([\d.]+)")


class Arrangement(NamedTuple):
    """Processes, devices of each, devices that share a copy of the state, and the launcher."""

    processes: int
    devices: int
    fsdp: int
    launcher: str = ""

    def __str__(self) -> str:
        launched = f", launched by {self.launcher}" if self.launcher else ""
        return f"{self.processes} × {self.devices}, fsdp {self.fsdp}{launched}"


ARRANGEMENTS = (
    Arrangement(1, 1, 1),
    Arrangement(1, 8, 1),
    Arrangement(1, 8, 8),
    Arrangement(2, 1, 1),
    Arrangement(2, 1, 2),
    Arrangement(2, 4, 4),
    Arrangement(4, 1, 1),
    Arrangement(4, 2, 2),
    Arrangement(4, 2, 8),
    Arrangement(2, 1, 1, "SLURM"),
    Arrangement(2, 1, 1, "Open MPI"),
)

MOVES = tuple(ARRANGEMENTS[number] for number in (0, 2, 5, 8))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="for the runs; a temporary one otherwise")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers, too")
    return parser.parse_args()


def train(arrangement: Arrangement, arguments: list[str], code: int = 0) -> None:
    """Train with one command for each process.

    Raises:
        RuntimeError: a process ended otherwise than expected.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    devices = {"JAX_NUM_CPU_DEVICES": str(arrangement.devices), "JAX_PLATFORMS": "cpu"}
    devices["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles in half the time
    command = [sys.executable, "-m", "asr.train", *arguments, f"mesh.fsdp={arrangement.fsdp}"]
    processes = []
    for number in range(arrangement.processes):
        flags, variables = identity(arrangement, number, port)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command + flags, env=os.environ | devices | variables, **pipes))
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode != code:
            raise RuntimeError(f"{arrangement}: exit code {process.returncode}, expected {code}\n{output}")


def identity(arrangement: Arrangement, number: int, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the flags and the environment that give a process its number."""
    if arrangement.processes == 1:
        return [], {}
    count, rank = str(arrangement.processes), str(number)
    if arrangement.launcher == "SLURM":
        job = {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
        return ["--distributed"], job | {"SLURM_NTASKS": count, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
    if arrangement.launcher == "Open MPI":
        job = {"OMPI_MCA_orte_hnp_uri": f"{port * 65536}.0;tcp://127.0.0.1:{port}", "OMPI_COMM_WORLD_SIZE": count}
        return ["--distributed"], job | {"OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_LOCAL_RANK": rank}
    flags = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", count, "--process-id", rank]
    return flags, {}


def losses(run: Path) -> dict[int, float]:
    """Return the loss of each step of a run, from its log."""
    return {int(step): float(loss) for step, loss in STEP.findall((run / "train.log").read_text())}


def only_run(folder: Path) -> Path:
    """Return the run directory in a folder that has one."""
    (run,) = folder.iterdir()
    return run


def largest_deviation(loss_by_step: dict[int, float], expected: dict[int, float]) -> float:
    """Return the largest relative difference of two runs' losses, step by step."""
    if loss_by_step.keys() != expected.keys():
        raise RuntimeError(f"steps {sorted(loss_by_step)} were logged, expected {sorted(expected)}")
    return max(abs(loss_by_step[step] - expected[step]) / expected[step] for step in expected)


def compare(folder: Path, config: Path) -> list[dict]:
    """Return a row for each arrangement: its last loss, and the largest deviation from one device."""
    rows, expected = [], None
    for number, arrangement in enumerate(ARRANGEMENTS):
        runs = folder / f"runs_{number}"
        train(arrangement, ["--config", str(config), f"runs_dir={runs}"])
        loss_by_step = losses(only_run(runs))
        expected = expected or loss_by_step
        deviation = largest_deviation(loss_by_step, expected)
        rows.append({"arrangement": str(arrangement), "loss": loss_by_step[max(loss_by_step)], "deviation": deviation})
        print(f"| {arrangement} | {loss_by_step[max(loss_by_step)]:.4f} | {deviation:.1e} |", flush=True)
    return rows


def move(folder: Path, config: Path, expected: dict[int, float]) -> float:
    """Return the largest deviation of a run that each of the `MOVES` does a step or two of."""
    runs = folder / "runs_moved"
    for number, arrangement in enumerate(MOVES):
        start = ["--resume", str(only_run(runs))] if number else ["--config", str(config), f"runs_dir={runs}"]
        train(arrangement, [*start, "--max-minutes", "0.0001"], code=75)
    train(ARRANGEMENTS[0], ["--resume", str(only_run(runs))])
    return largest_deviation(losses(only_run(runs)), expected)


def main() -> int:
    """Compare and move; return the exit code."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "scaling.yaml"
        config.write_text(CONFIG)
        print("| processes × devices | last loss | largest relative deviation |\n|---|---|---|")
        rows = compare(folder, config)
        moved = move(folder, config, losses(only_run(folder / "runs_0")))
    print(f"| moved from one to the next | | {moved:.1e} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "moved": moved}, indent=1) + "\n")
    worst = max(moved, *(row["deviation"] for row in rows))
    print(f"largest deviation {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
