"""Draw which spelled letters were taken for which others, from the scores of one or several runs.

    python scripts/draw_letter_confusions.py --out letters.png EVAL_FOLDER [EVAL_FOLDER …]

Each folder is one that `python -m asr.eval` wrote, runs/…/eval_test for example; the counts of several are added up.
A spelled letter is a word of one letter. Letters that rhyme stand side by side, in the order of the English alphabet's
sounds (B C D E …, A J K …, F L M …), so that confusion by sound shows as blocks along the diagonal.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from asr.cli import run_command
from asr.errors import UserError
from asr.files import writing_aside
from asr.metrics.error_rate import align, words

RHYMES = ("BCDEGPTVZ", "AHJK", "FLMNSX", "QUW", "IY", "O", "R")
"""English letters by the vowel of their names."""

OTHER, NOTHING = "other word", "nothing"


def read_pairs(folder: Path) -> list[tuple[str, str]]:
    """Return (reference, hypothesis) of each utterance that was scored.

    Raises:
        UserError: not a folder of `asr.eval`.
    """
    file = folder / "utterances.csv"
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return [(row["reference"], row["hypothesis"]) for row in csv.DictReader(lines)]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected a folder that python -m asr.eval wrote") from None
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise UserError(f"{file}: expected the table with reference and hypothesis that asr.eval writes") from None


def count_letters(pairs: Iterable[tuple[str, str]]) -> Counter:
    """Return how often each spelled letter was heard as what: (letter, letter or OTHER or NOTHING) → times.

    Words are aligned with as few errors as can be; case is not looked at.
    """
    counts = Counter()
    for reference, hypothesis in pairs:
        for truth, said in align(words(reference.upper()), words(hypothesis.upper())).pairs:
            if truth is not None and is_letter(truth):
                counts[truth, NOTHING if said is None else said if is_letter(said) else OTHER] += 1
    return counts


def is_letter(word: str) -> bool:
    """Return whether a word is a spelled letter."""
    return len(word) == 1 and word.isalpha()


def order_letters(letters: Iterable[str]) -> list[str]:
    """Return the letters, those that rhyme side by side; letters of other alphabets behind them."""
    place = {letter: number for number, letter in enumerate("".join(RHYMES))}
    return sorted(set(letters), key=lambda letter: (place.get(letter, len(place)), letter))


def draw_confusions(counts: Counter, path: Path) -> None:
    """Draw the counts: rows are what was said, columns what was understood, the wrong ones in colour.

    Frames hold letters that rhyme.

    Args:
        counts: (letter, letter or OTHER or NOTHING) → times, at least one.
        path: the picture.
    """
    truths = order_letters(truth for truth, _ in counts)
    answers = [*order_letters({said for _, said in counts if is_letter(said)} | set(truths)), OTHER, NOTHING]
    counts_ta = np.array([[counts[truth, said] for said in answers] for truth in truths])
    total_t1 = counts_ta.sum(1, keepdims=True)
    right_ta = np.array([[truth == said for said in answers] for truth in truths])
    figure = Figure(figsize=(2 + 0.32 * len(answers), 2.2 + 0.32 * len(truths)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares_ta = np.where(right_ta, 0.0, 100 * counts_ta / total_t1)
    shown = axes.imshow(shares_ta, cmap="Oranges", vmin=0, vmax=max(shares_ta.max(), 1.0))
    for (row, column), count in np.ndenumerate(counts_ta):
        if count:
            right = right_ta[row, column]
            dark = not right and shares_ta[row, column] > 0.6 * shares_ta.max()
            colour = ("white" if dark else "black", 0.35 if right else 1.0)
            axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(answers)), answers)
    for label in axes.get_xticklabels()[-2:]:
        label.set_rotation(90)
    for group in RHYMES:
        rows, columns = ([i for i, letter in enumerate(letters) if letter in group] for letters in (truths, answers))
        if rows and columns:
            corner = columns[0] - 0.5, rows[0] - 0.5
            axes.add_patch(Rectangle(corner, len(columns), len(rows), fill=False, edgecolor="grey", linewidth=0.8))
    axes.set_yticks(range(len(truths)), truths)
    axes.set_xlabel("understood")
    axes.set_ylabel("said")
    figure.colorbar(shown, ax=axes, shrink=0.7, label="% of the letter's occurrences, wrong ones")
    with writing_aside(path, parents=True) as aside:
        figure.savefig(aside, format="png")


def share_among_rhymes(counts: Counter) -> tuple[int, int]:
    """Return how many letters were taken for one that rhymes, and for any other letter."""
    group = {letter: number for number, letters in enumerate(RHYMES) for letter in letters}
    wrong = {pair: n for pair, n in counts.items() if pair[0] != pair[1] and is_letter(pair[1])}
    rhyming = sum(n for (truth, said), n in wrong.items() if group.get(truth, -1) == group.get(said, -2))
    return rhyming, sum(wrong.values())


def main() -> None:
    """Count, print the most frequent confusions, draw."""
    parser = argparse.ArgumentParser(description="Draw which spelled letters were taken for which others.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="EVAL_FOLDER", help="written by python -m asr.eval")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="PNG file to write")
    arguments = parser.parse_args()
    if arguments.out.suffix.lower() != ".png" or not arguments.out.absolute().parent.is_dir():
        raise UserError(f"--out {arguments.out}: expected a .png file in a folder that is there")
    counts = sum((count_letters(read_pairs(folder)) for folder in arguments.folders), Counter())
    if not counts:
        raise UserError(f"{', '.join(map(str, arguments.folders))}: no reference holds a word of one letter")
    right = sum(n for (truth, said), n in counts.items() if truth == said)
    rhyming, wrong = share_among_rhymes(counts)
    print(f"{counts.total()} spelled letters, {right} understood; {wrong} taken for another, {rhyming} of them rhyme")
    ranked = sorted(((n, pair) for pair, n in counts.items() if pair[0] != pair[1]), key=lambda x: (-x[0], x[1]))
    for n, (truth, said) in ranked[:10]:
        print(f"  {n:3}  {truth} → {said}")
    draw_confusions(counts, arguments.out)
    print(f"drawn: {arguments.out}")


if __name__ == "__main__":
    run_command(main)
