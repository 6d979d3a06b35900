"""Draws the word error rates of scored runs side by side, with their intervals.

    python scripts/draw_error_rates.py --out rates.png "two blocks=EVAL_FOLDER,EVAL_FOLDER" "one block=EVAL_FOLDER"

Each folder is one that `python -m asr.eval` wrote. A row may have several, one for each decoder; the interval is that
of `asr.eval`: what other utterances may change, not what another seed may.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from asr.cli import run_command
from asr.errors import UserError
from asr.files import writing_aside

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


class Score(NamedTuple):
    """A word error rate."""

    decoder: str
    percent: float
    low: float
    high: float


def read_score(folder: Path) -> Score:
    """Return the word error rate in a folder of scores.

    Raises:
        UserError: not a folder of `asr.eval`.
    """
    file = folder / "metrics.json"
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))
        words = scores["words"]
        return Score(scores["decoder"], *(100 * rate for rate in (words["error_rate"], *words["interval_95"])))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected a folder that python -m asr.eval wrote") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected what asr.eval writes ({type(error).__name__}: {error})") from None


def read_rows(words: list[str]) -> dict[str, list[Score]]:
    """Return the scores of each NAME=FOLDER,FOLDER."""
    rows = {}
    for word in words:
        name, equals, folders = word.partition("=")
        if not (name and equals and folders) or name in rows:
            raise UserError(f"{word}: expected NAME=EVAL_FOLDER,EVAL_FOLDER, each name once")
        rows[name] = [read_score(Path(folder)) for folder in folders.split(",")]
    return rows


def draw_rates(rows: dict[str, list[Score]], path: Path) -> None:
    """Draw a line of points with intervals for each row, the first row on top."""
    decoders = list(dict.fromkeys(score.decoder for scores in rows.values() for score in scores))
    figure = Figure(figsize=(7.5, 1 + 0.36 * len(rows)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row, scores in enumerate(rows.values()):
        for score in scores:
            place = decoders.index(score.decoder)
            height = row + 0.24 * (place - (len(decoders) - 1) / 2)
            colour, label = COLOURS[place % len(COLOURS)], f"--decoder {score.decoder}"
            axes.plot([score.low, score.high], [height, height], color=colour, linewidth=1.5)
            axes.plot(score.percent, height, "o", color=colour, markersize=4.5, label=label)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("word error rate, %, and 95 % interval")
    axes.grid(axis="x", color="0.9")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=len(handles), frameon=False)
    with writing_aside(path, parents=True) as aside:
        figure.savefig(aside, format="png")


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="+", metavar="NAME=EVAL_FOLDER,EVAL_FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="PNG file to write")
    arguments = parser.parse_args()
    if arguments.out.suffix.lower() != ".png":
        raise UserError(f"--out {arguments.out}: expected a .png file")
    draw_rates(read_rows(arguments.rows), arguments.out)


if __name__ == "__main__":
    run_command(main)
