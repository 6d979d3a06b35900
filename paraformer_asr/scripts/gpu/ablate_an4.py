"""Ablations on AN4, in pieces: call it again until it says that all is scored.

    python scripts/gpu/ablate_an4.py FOLDER_OF_AN4 FOLDER_FOR_RESULTS [key=value …] [--seeds 0 1 2] [--minutes 8]

Every variant is the recipe of --config (configs/an4_full.yaml) with a few settings changed, trained without the
validation speakers and scored on them, so that the test split stays unseen. First all get the same number of epochs.
Then those that were slower or faster than the recipe by more than a tenth are trained once more, for as many epochs as
fit into the recipe's time. The first call starts a run in FOLDER_FOR_RESULTS/runs, the next ones resume it; what is
scored is not done again. summary.json holds what the table shows. --only takes some of the variants.

Exit codes: 0 all are scored, 75 call again, others as of asr.train.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from asr.cli import run_command
from asr.config.reader import load_config
from asr.errors import EXIT_OK, EXIT_UNFINISHED, UserError

PROJECT = Path(__file__).resolve().parents[2]
RECIPE = "recipe"
VARIANTS = {
    RECIPE: [],
    "sanm": ["model.encoder.kind=sanm", "model.encoder.position=sincos"],
    "conformer": ["model.encoder.kind=conformer", "model.encoder.position=sincos"],
    "sampler_off": ["model.sampling_ratio=0"],
    "ctc_off": ["model.ctc_head=false", "loss.ctc_weight=0"],
    "ctc_0.1": ["loss.ctc_weight=0.1"],
    "ctc_0.5": ["loss.ctc_weight=0.5"],
    "ctc_0.7": ["loss.ctc_weight=0.7"],
    "frames_60_ms": ["features.lfr_n=6", "model.predictor.initial_bias=-1"],
    "frames_30_ms": ["features.lfr_n=3"],
    "letters": ["tokenizer.kind=characters"],
    "bpe_100": ["tokenizer.vocab_size=100"],
    "bpe_400": ["tokenizer.vocab_size=400"],
    "utterance_mean": ["features.utterance_mean=true"],
    "mel_warp": ["data.augment.max_mel_warp=0.08"],
    "one_decoder_block": ["model.decoder.num_layers=1"],
    "decoder_without_memory": ["model.decoder.kernel_size=1"],
}
"""Name → settings that differ from the recipe."""

EQUAL_TIME = "_equal_time"
SAME_SPEED = 0.1
"""A variant within this share of the recipe's time is not trained anew for equal time."""

SPARE_S = 45
"""Less than this is not worth starting a process for."""


class OutOfTimeError(Exception):
    """The piece is over; another call continues."""


class Pieces:
    """Trains and scores runs until the time of this call is over.

    Attributes:
        results: folder that the runs and the summary lie in.
    """

    def __init__(self, arguments: argparse.Namespace):
        self._arguments, self.results = arguments, arguments.results.absolute()
        self._end = time.monotonic() + 60 * arguments.minutes

    def score(self, name: str, seed: int, overrides: list[str]) -> dict:
        """Return the row of a run, which is trained and scored before if need be.

        Raises:
            OutOfTimeError: time is up; the next call resumes the run.
            SystemExit: the training or the evaluation failed.
        """
        full_name, arguments = f"{name}_seed{seed}", self._arguments
        run = self._find(full_name)
        if run is None or not (run / "eval_val" / "metrics.json").exists():
            if run is None:
                settings = [f"data.root={arguments.root.absolute()}", f"runs_dir={self.results / 'runs'}"]
                settings += ["data.train_split=train", *arguments.overrides, *overrides]
                settings += [f"name={full_name}", f"seed={seed}"]
                self._run("asr.train", "--config", str(arguments.config.absolute()), *settings)
            else:
                self._run("asr.train", "--resume", str(run))
            run = self._find(full_name)
            average = str(min(arguments.average, len(read_table(run))))  # a short run leaves fewer checkpoints
            words = "--run", str(run), "--split", "val", "--checkpoint", "last", "--average", average
            self._run("asr.eval", *words)
        return read_row(name, seed, run)

    def _find(self, name: str) -> Path | None:
        return max((self.results / "runs").glob(f"????????_??????_{name}"), default=None)

    def _run(self, module: str, *words: str) -> None:
        left_s = self._end - time.monotonic()
        if left_s < SPARE_S:
            raise OutOfTimeError
        limit = ["--max-minutes", f"{left_s / 60:.2f}"] if module == "asr.train" else []
        print(f"{module} {' '.join(words[:2])}, at most {left_s:.0f} s", flush=True)
        source = f"{PROJECT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = os.environ | {"PYTHONPATH": source}
        command = [sys.executable, "-m", module, *words, *limit]
        code = subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL).returncode
        if code == EXIT_UNFINISHED:
            raise OutOfTimeError
        if code:
            sys.exit(code)


def read_table(run: Path) -> list[dict]:
    """Return a row for each evaluation of a run, and so for each checkpoint that it saved."""
    with (run / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_row(name: str, seed: int, run: Path) -> dict:
    """Return the numbers in the record of a scored run."""
    last = read_table(run)[-1]
    scores = json.loads((run / "eval_val" / "metrics.json").read_text())
    return {
        "variant": name,
        "seed": seed,
        "epochs": int(last["epoch"]),
        "minutes": float(last["seconds"]) / 60,
        "audio_s_per_s": float(last["audio_s_per_s"]),
        "wer": scores["words"]["error_rate"],
        "cer": scores["characters"]["error_rate"],
        "run": run.name,
    }


def equal_time_epochs(row: dict, recipe: dict) -> int | None:
    """Return the epochs that fit into the recipe's time, or None where its own are about as many."""
    epochs = round(recipe["epochs"] * row["audio_s_per_s"] / recipe["audio_s_per_s"])
    return max(epochs, 1) if abs(epochs / recipe["epochs"] - 1) > SAME_SPEED else None


def collect(pieces: Pieces, names: list[str], seeds: list[int]) -> tuple[list[dict], bool]:
    """Return the rows of all that is scored, and whether that is everything."""
    rows = []
    try:
        for name in names:
            for seed in seeds:
                rows.append(pieces.score(name, seed, VARIANTS[name]))
        recipe = rows[0]
        for row in [row for row in rows if row["variant"] != RECIPE]:
            if epochs := equal_time_epochs(row, recipe):
                longer = [*VARIANTS[row["variant"]], f"training.num_epochs={epochs}"]
                rows.append(pieces.score(row["variant"] + EQUAL_TIME, row["seed"], longer))
    except OutOfTimeError:
        return rows, False
    return rows, True


def format_rows(rows: list[dict]) -> str:
    """Return the table: a line for each variant, with mean and standard deviation over its seeds."""
    width = max((len(row["variant"]) for row in rows), default=0)
    lines = [f"{'variant':<{width}}  epochs  minutes     WER %         CER %         seeds"]
    for name in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == name]
        rates = "  ".join(f"{_spread([row[rate] for row in runs]):<12}" for rate in ("wer", "cer"))
        minutes = statistics.fmean(row["minutes"] for row in runs)
        lines.append(f"{name:<{width}}  {runs[0]['epochs']:>6}  {minutes:>7.1f}     {rates}  {len(runs)}")
    return "\n".join(lines)


def _spread(rates: list[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(rates):.2f}" if len(rates) > 1 else ""
    return f"{100 * statistics.fmean(rates):.2f}{deviation}"


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description="Ablations on AN4, in pieces; scored on the validation speakers.")
    parser.add_argument("root", type=Path, help="folder of AN4")
    parser.add_argument("results", type=Path, help="folder for the runs and the summary")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all variants")
    parser.add_argument("--config", type=Path, default=PROJECT / "configs" / "an4_full.yaml", help="the recipe")
    parser.add_argument("--only", nargs="+", choices=sorted(VARIANTS), help="variants beside the recipe (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=8.0, help="of this call")
    parser.add_argument("--average", type=int, help="checkpoints to average (default: all that a run keeps)")
    return parser.parse_intermixed_args()


def main() -> int:
    """Do a piece, print the table of what is scored; return the exit code."""
    arguments = parse_arguments()
    if not arguments.root.is_dir():
        raise UserError(f"{arguments.root}: expected the folder of AN4")
    config = load_config(arguments.config, [f"data.root={arguments.root}", *arguments.overrides])
    arguments.average = arguments.average or config.training.keep_checkpoints
    names = [RECIPE, *(name for name in VARIANTS if name != RECIPE and name in (arguments.only or VARIANTS))]
    pieces = Pieces(arguments)
    pieces.results.mkdir(parents=True, exist_ok=True)
    rows, finished = collect(pieces, names, arguments.seeds)
    (pieces.results / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(format_rows(rows))
    print(f"finished: {pieces.results / 'summary.json'}" if finished else "not finished: call this script again")
    return EXIT_OK if finished else EXIT_UNFINISHED


if __name__ == "__main__":
    run_command(main)
