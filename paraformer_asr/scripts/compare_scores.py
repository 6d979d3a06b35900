"""Compares two configurations on the same utterances: the difference of their word error rates, with its interval.

    python scripts/compare_scores.py --first EVAL_FOLDER --second EVAL_FOLDER EVAL_FOLDER EVAL_FOLDER

Each folder is one that `python -m asr.eval` wrote; several of one configuration, such as its seeds, are averaged. The
interval is 95 % of 10,000 bootstrap draws over utterances, drawn for all folders at once: most of what makes a set of
utterances easy or hard is the same for both, and drops out of the difference. It is for other utterances of this kind,
not for other seeds.

Reference: Bisani and Ney 2004, "Bootstrap Estimates for Confidence Intervals in ASR Performance Evaluation".
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from vote import read_tables

from asr.cli import run_command
from asr.errors import UserError
from asr.metrics import word_errors

NUM_DRAWS = 10_000


def difference(first_rn: np.ndarray, second_rn: np.ndarray, words_n: np.ndarray) -> tuple[float, float, float]:
    """Return (difference, low, high) in per cent; errors[runs, utterances] of each, words of each utterance."""
    errors_n = first_rn.mean(axis=0) - second_rn.mean(axis=0)
    drawn_dn = np.random.default_rng(0).integers(len(words_n), size=(NUM_DRAWS, len(words_n)))
    lengths_d = words_n[drawn_dn].sum(axis=1)
    drawn = 100 * errors_n[drawn_dn].sum(axis=1)[lengths_d > 0] / lengths_d[lengths_d > 0]
    return 100 * errors_n.sum() / words_n.sum(), *np.quantile(drawn, [0.025, 0.975])


def describe(name: str, errors_rn: np.ndarray, num_words: int) -> str:
    """Return a line with the rate of each run and their mean."""
    rates_r = 100 * errors_rn.sum(axis=1) / num_words
    return f"{name}: {rates_r.mean():.2f} % ({', '.join(f'{rate:.2f}' for rate in rates_r)})"


def count(tables: Sequence[dict[str, dict[str, str]]], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (errors int[runs, utterances], words int[utterances])."""
    counts = [[word_errors(table[name]["reference"], table[name]["hypothesis"]) for name in names] for table in tables]
    errors_rn = np.array([[each.errors for each in row] for row in counts])
    return errors_rn, np.array([each.reference_length for each in counts[0]])


def main() -> None:
    """Print the rates of both, and their difference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--first", type=Path, nargs="+", required=True, metavar="EVAL_FOLDER")
    parser.add_argument("--second", type=Path, nargs="+", required=True, metavar="EVAL_FOLDER")
    arguments = parser.parse_args()
    tables = read_tables([*arguments.first, *arguments.second])
    names = list(tables[0])
    errors_rn, words_n = count(tables, names)
    if not words_n.any():
        raise UserError(f"{arguments.first[0]}: no reference has words")
    first_rn, second_rn = np.split(errors_rn, [len(arguments.first)])
    print(describe("first", first_rn, words_n.sum()))
    print(describe("second", second_rn, words_n.sum()))
    middle, low, high = difference(first_rn, second_rn, words_n)
    print(f"first − second: {middle:+.2f} points ({low:+.2f} … {high:+.2f}), {len(names)} utterances")


if __name__ == "__main__":
    run_command(main)
