"""Compare two configurations trained with the same seeds: the difference of the IoU of each class, with its interval.

    python scripts/compare_seeds.py --first TABLE TABLE TABLE --second TABLE TABLE TABLE --out difference.png

Each table is the `results.csv` that `seg.eval` wrote for a run; the tables of both lists are paired in their order. The
interval is that of Student's t for the mean of the differences, 95 %: what other seeds may change, on these images.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats

from seg.cli import run_command
from seg.errors import UserError


def read_ious(table: Path) -> dict[str, float]:
    """Return the IoU of each class in per cent, and their mean.

    Raises:
        UserError: no such table, or not one that `seg.eval` writes.
    """
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            ious = {row["class"]: 100 * float(row["iou"]) for row in csv.DictReader(lines)}
    except OSError as error:
        raise UserError(f"{table}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{table}: expected the results.csv of seg.eval, with class and iou") from None
    return {**ious, "mean": float(np.mean(list(ious.values())))}


def read_runs(tables: Sequence[Path], names: Sequence[str] = ()) -> tuple[list[str], np.ndarray]:
    """Return the classes and float[runs, classes]; `names` are those that are expected."""
    runs = [read_ious(table) for table in tables]
    names = list(names or runs[0])
    for table, run in zip(tables, runs, strict=True):
        if list(run) != names:
            raise UserError(f"{table}: other classes than in the first table")
    return names, np.array([list(run.values()) for run in runs])


def half_interval(differences: np.ndarray) -> np.ndarray:
    """Return half the 95 % interval of the mean of differences[runs, classes]."""
    number = len(differences)
    return scipy.stats.t.ppf(0.975, number - 1) * differences.std(0, ddof=1) / number**0.5


def main() -> None:
    """Print the table and draw the differences."""
    parser = argparse.ArgumentParser(description="Compare two configurations trained with the same seeds.")
    parser.add_argument("--first", type=Path, nargs="+", required=True, metavar="TABLE")
    parser.add_argument("--second", type=Path, nargs="+", required=True, metavar="TABLE")
    parser.add_argument("--labels", nargs=2, default=("first", "second"), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("difference.png"))
    arguments = parser.parse_args()
    if not 1 < len(arguments.first) == len(arguments.second):
        found = f"{len(arguments.first)} and {len(arguments.second)}"
        raise UserError(f"expected two seeds or more and as many tables of each configuration, found {found}")
    names, first = read_runs(arguments.first)
    _, second = read_runs(arguments.second, names)
    differences = second - first
    mean, half = differences.mean(0), half_interval(differences)
    one, other = arguments.labels
    print(f"| class | {one} | {other} | difference, 95 % interval |\n|---|---|---|---|")
    for i, name in enumerate(names):
        print(f"| {name} | {first[:, i].mean():.1f} | {second[:, i].mean():.1f} | {mean[i]:+.1f} ± {half[i]:.1f} |")

    figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
    places = np.arange(len(names))
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.errorbar(places, mean, half, fmt="o", capsize=4, color="tab:blue", label="mean and 95 % interval")
    for i, run in enumerate(differences):
        axis.plot(places + 0.15 + 0.06 * i, run, "x", color="tab:orange", label=None if i else "each seed")
    axis.set_xticks(places, [name.replace("_", " ") for name in names], rotation=35, ha="right")
    axis.set_ylabel(f"IoU: {other} − {one}, in points")
    axis.legend(loc="upper left")
    try:
        figure.savefig(arguments.out, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"--out {arguments.out}: {getattr(error, 'strerror', None) or error}") from None
    print(f"drawn: {arguments.out}")


if __name__ == "__main__":
    run_command(main)
