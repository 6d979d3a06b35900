"""Ablations on CamVid, in pieces: call it again until everything is scored.

    python scripts/gpu/ablate_camvid.py FOLDER_OF_CAMVID FOLDER_FOR_RESULTS [key=value …] [--seeds 0 1 2] [--minutes 8]

Every variant is the recipe of --config (configs/camvid_unet_transformer.yaml) with a few settings changed, trained
without the sequence --hold-out and scored on it, so that the test split stays unseen. (The official validation frames
are between training frames and would flatter the model.) First all get the same number of epochs.
Then those that were slower or faster than the recipe by more than a tenth are trained once more, for as many epochs as
fit into the recipe's time. The first call starts a run in FOLDER_FOR_RESULTS/runs, the next ones resume it; what is
scored is not done again. summary.json holds what the table shows. --only takes some of the variants.

Exit codes: 0 all are scored, 75 call again, others as of seg.train.
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

from seg.cli import run_command
from seg.errors import EXIT_OK, EXIT_UNFINISHED, EXIT_USER_ERROR, UserError

PROJECT = Path(__file__).resolve().parents[2]
RECIPE = "recipe"
VARIANTS = {
    RECIPE: [],
    "unet": ["model.name=unet"],
    "position_none": ["model.transformer.position=none"],
    "position_learned": ["model.transformer.position=learned"],
    "layers_1": ["model.transformer.num_layers=1"],
    "layers_2": ["model.transformer.num_layers=2"],
    "layers_8": ["model.transformer.num_layers=8"],
    "class_weights_off": ["loss.class_weighting=none"],
    "class_weights_full": ["loss.class_weight_power=1.0"],
    "dice_off": ["loss.name=cross_entropy"],
    "ema_off": ["training.ema_decay=0"],
    "copy_paste_off": ["data.augment.copy_paste=0"],
}
"""Name → settings that differ from the recipe."""

EQUAL_TIME = "_equal_time"
SAME_SPEED = 0.1
"""A variant within this share of the recipe's time is not trained anew for equal time."""

SPARE_S = 45
"""Less than this is not worth starting a process for."""


class OutOfTimeError(Exception):
    """The piece is over; another call goes on."""


class Pieces:
    """Trains and scores runs until the time of this call is over.

    Attributes:
        results: folder of the runs and the summary.
    """

    def __init__(self, arguments: argparse.Namespace, splits: dict[str, Path]):
        self._splits, self._arguments, self.results = splits, arguments, arguments.results.absolute()
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
                settings += [f"data.{split}_split={path}" for split, path in self._splits.items()]
                settings += [*arguments.overrides, *overrides, f"name={full_name}", f"seed={seed}"]
                self._run("seg.train", "--config", str(arguments.config.absolute()), *settings)
            else:
                self._run("seg.train", "--resume", str(run))
            run = self._find(full_name)
            self._run("seg.eval", "--run", str(run), "--split", "val", "--checkpoint", "last", "--no-mirror")
        return read_row(name, seed, run)

    def _find(self, name: str) -> Path | None:
        return max((self.results / "runs").glob(f"????????_??????_{name}"), default=None)

    def _run(self, module: str, *words: str) -> None:
        left_s = self._end - time.monotonic()
        if left_s < SPARE_S:
            raise OutOfTimeError
        limit = ["--max-minutes", f"{left_s / 60:.2f}"] if module == "seg.train" else []
        print(f"{module} {' '.join(words[:2])}, at most {left_s:.0f} s", flush=True)
        source = f"{PROJECT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = os.environ | {"PYTHONPATH": source}
        command = [sys.executable, "-m", module, *words, *limit]
        code = subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL).returncode
        if code == EXIT_UNFINISHED:
            raise OutOfTimeError
        if code:
            sys.exit(code)


def read_row(name: str, seed: int, run: Path) -> dict:
    """Return the scores in the record of a run."""
    with (run / "results.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    scores = json.loads((run / "eval_val" / "metrics.json").read_text())
    return {
        "variant": name,
        "seed": seed,
        "epochs": round(float(last["epoch"])),
        "minutes": float(last["seconds"]) / 60,
        "images_per_s": float(last["images_per_s"]),
        "mean_iou": scores["mean_iou"],
        "pixel_accuracy": scores["pixel_accuracy"],
        "run": run.name,
    }


def equal_time_epochs(row: dict, recipe: dict) -> int | None:
    """Return the epochs that fit into the recipe's time, or None where its own are about as many."""
    epochs = round(recipe["epochs"] * row["images_per_s"] / recipe["images_per_s"])
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
    lines = [f"{'variant':<{width}}  epochs  minutes  mean IoU %    accuracy %    seeds"]
    for name in dict.fromkeys(row["variant"] for row in rows):
        scored = [row for row in rows if row["variant"] == name]
        rates = "  ".join(f"{_spread([row[rate] for row in scored]):<12}" for rate in ("mean_iou", "pixel_accuracy"))
        minutes = statistics.fmean(row["minutes"] for row in scored)
        lines.append(f"{name:<{width}}  {scored[0]['epochs']:>6}  {minutes:>7.1f}  {rates}  {len(scored)}")
    return "\n".join(lines)


def _spread(rates: list[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(rates):.2f}" if len(rates) > 1 else ""
    return f"{100 * statistics.fmean(rates):.2f}{deviation}"


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        description="Ablations on CamVid, in pieces; scored on a sequence that is held out."
    )
    parser.add_argument("root", type=Path, help="folder of CamVid")
    parser.add_argument("results", type=Path, help="folder for the runs and the summary")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all variants")
    parser.add_argument(
        "--config", type=Path, default=PROJECT / "configs" / "camvid_unet_transformer.yaml", help="the recipe"
    )
    parser.add_argument("--only", nargs="+", choices=sorted(VARIANTS), help="variants beside the recipe (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=8.0, help="of this call")
    parser.add_argument("--hold-out", default="0006R0", metavar="SEQUENCE", help="to score on (default: 0006R0)")
    return parser.parse_intermixed_args()


def main() -> int:
    """Do a piece, print the table of what is scored; return the exit code."""
    arguments = parse_arguments()
    if not arguments.root.is_dir():
        raise UserError(f"{arguments.root}: expected the folder of CamVid")
    names = [RECIPE, *(name for name in VARIANTS if name != RECIPE and name in (arguments.only or VARIANTS))]
    lists = arguments.results.absolute() / "lists"
    command = [sys.executable, str(PROJECT / "scripts" / "hold_out_sequence.py"), str(arguments.root)]
    if subprocess.run([*command, arguments.hold_out, "--out", str(lists)], stdout=subprocess.DEVNULL).returncode:
        return EXIT_USER_ERROR  # it has said why
    splits = {
        split: lists / f"{part}_{arguments.hold_out}.txt" for split, part in (("train", "without"), ("val", "only"))
    }
    pieces = Pieces(arguments, splits)
    rows, finished = collect(pieces, names, arguments.seeds)
    (pieces.results / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(format_rows(rows))
    print(f"finished: {pieces.results / 'summary.json'}" if finished else "not finished: call this script again")
    return EXIT_OK if finished else EXIT_UNFINISHED


if __name__ == "__main__":
    run_command(main)
