"""Trains variants of a config for the same time each, scores their validation split, and prints a table.

    python scripts/ablate.py --config configs/an4_small.yaml --minutes 10 --out out data.root=… data.train_split=train

The time is that of the processor, all its cores added up. A variant first trains two epochs, of which the second tells
what an epoch costs; then, from scratch, as many as fit into the time, with the learning rate's schedule over all of
them. Compilation, evaluation and checkpoints are not counted. What --out holds already is not trained again: a stopped
script continues, and --only lets two processes share the work.
"""

import argparse
import json
import subprocess
import sys
import time
import unittest.mock
from pathlib import Path

import jax
import jax.numpy as jnp

import asr
from asr.cli import run_command
from asr.errors import UserError
from asr.files import replace_text
from asr.ops import cif
from asr.watch.hook import Hook, StepInfo

LOST_FIRE = "last fire lost"
VARIANTS = {
    "base": [],
    "SAN-M": ["model.encoder.kind=sanm", "model.encoder.position=sincos"],
    "Conformer": ["model.encoder.kind=conformer"],
    "no sampler": ["model.sampling_ratio=0"],
    "no CTC": ["model.ctc_head=false", "loss.ctc_weight=0"],
    "CTC weight 0.7": ["loss.ctc_weight=0.7"],
    LOST_FIRE: [],
    "frames of 30 ms": ["features.lfr_n=3"],
    "frames of 60 ms": ["features.lfr_n=6", "model.predictor.initial_bias=-1"],
    "one decoder block": ["model.decoder.num_layers=1"],
    "characters": ["tokenizer.kind=characters"],
    "utterance mean": ["features.utterance_mean=true"],
    "stretched mel axis": ["data.augment.max_mel_warp=0.08"],
}


class EpochClock(Hook):
    """Measures the second epoch of a run."""

    def on_start(self, training, step: int) -> None:  # noqa: D102
        self.ends: list[float] = []

    def on_step(self, info: StepInfo) -> None:  # noqa: D102
        self.ends.append(time.process_time())

    @property
    def epoch_s(self) -> float:
        """Seconds of processor time of the second of two epochs."""
        return self.ends[-1] - self.ends[len(self.ends) // 2 - 1]


def lose_last_fire(alpha_bt, valid_bt, num_tokens_b):
    """Return what `cif.scaled_cumulative` does, cut off where a loop that tests a float32 level for ≥ 1 stops firing.

    The loop, of the published training code, misses the last fire wherever rounding leaves the level just below 1: that
    token's embedding is 0.
    """
    exact_bt = EXACT(alpha_bt, valid_bt, num_tokens_b)
    scaled_bt = alpha_bt * (num_tokens_b / jnp.maximum(alpha_bt.sum(1), 1e-9))[:, None]

    def integrate(carry, weight_b):
        level_b, fired_b = carry
        level_b = level_b + weight_b
        return (level_b - (level_b >= 1), fired_b + (level_b >= 1)), None

    zero_b = jnp.zeros(len(alpha_bt), jnp.float32)
    (_, fired_b), _ = jax.lax.scan(integrate, (zero_b, zero_b), jax.lax.stop_gradient(scaled_bt).T)
    return jnp.minimum(exact_bt, fired_b[:, None])


EXACT = cif.scaled_cumulative


def train(name: str, arguments: argparse.Namespace) -> dict:
    """Train a variant for the time, score it, and return its row of the table."""
    folder, clock = arguments.out / name.replace(" ", "_"), EpochClock()
    fixed = [*arguments.overrides, *VARIANTS[name], f"runs_dir={json.dumps(str(folder))}"]

    def run(num_epochs: int, hooks=()) -> Path:
        length = [f"training.num_epochs={num_epochs}", f"training.eval_every_epochs={num_epochs}"]
        trained = asr.train(arguments.config, overrides=[*fixed, *length], hooks=hooks)
        if not trained.finished:
            raise UserError(f"{name}: stopped; the same command begins this variant anew")
        return trained.path

    rule = lose_last_fire if name == LOST_FIRE else EXACT
    with unittest.mock.patch.object(cif, "scaled_cumulative", rule):
        run(2, [clock])
        num_epochs = max(1, round(60 * arguments.minutes / clock.epoch_s))
        path = run(num_epochs)
    row = {"num_epochs": num_epochs, "epoch_s": round(clock.epoch_s, 2)}
    for decoder in ("cif", "ctc")[: 2 if asr.load_config(path / "config.yaml").model.ctc_head else 1]:
        row[decoder] = score(path, decoder)
    return row


def score(run: Path, decoder: str) -> dict:
    """Return the word error rate of a run on its validation split, with its interval."""
    out = run / f"eval_{decoder}"
    options = ["--run", run, "--checkpoint", "last", "--decoder", decoder, "--out", out]
    subprocess.run([sys.executable, "-m", "asr.eval", *options], check=True, stdout=subprocess.DEVNULL)
    words = json.loads((out / "metrics.json").read_text())["words"]
    return {name: words[name] for name in ("error_rate", "interval_95")}


def format_table(rows: dict[str, dict]) -> str:
    """Return the table in Markdown."""

    def cell(score: dict | None) -> str:
        if score is None:
            return "none"
        low, high = score["interval_95"]
        return f"{100 * score['error_rate']:.1f} ({100 * low:.1f} … {100 * high:.1f})"

    lines = ["| variant | epochs | integrate-and-fire: WER | CTC head: WER |", "|---|---|---|---|"]
    lines += [f"| {n} | {row['num_epochs']} | {cell(row['cif'])} | {cell(row.get('ctc'))} |" for n, row in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, and print what is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="processor time of each variant")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and scores")
    parser.add_argument("--only", action="append", choices=VARIANTS, metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.root=FOLDER")
    arguments = parser.parse_intermixed_args()
    if not arguments.minutes > 0:
        raise UserError(f"--minutes: expected more than 0, found {arguments.minutes}")
    files = {name: arguments.out / f"{name.replace(' ', '_')}.json" for name in VARIANTS}
    for name in arguments.only or VARIANTS:
        if not files[name].exists():
            replace_text(files[name], json.dumps(train(name, arguments), indent=1))
    print(format_table({name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}))


if __name__ == "__main__":
    run_command(main)
