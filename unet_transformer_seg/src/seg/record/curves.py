"""The curves of a run as a picture."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from seg.files import replacing

LOSSES = {"train_loss": "training", "val_loss": "validation"}
SCORES = {"mean_iou": "mean IoU", "mean_dice": "mean Dice", "pixel_accuracy": "pixel accuracy"}


def draw_curves(rows: list[dict[str, str]], path: Path) -> None:
    """Draw loss, scores and learning rate over the epochs; without a row there is no picture.

    Args:
        rows: of results.csv.
        path: PNG file, replaced at once.
    """
    if not rows:
        return
    epochs = _column(rows, "epoch")
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, score, rate = figure.subplots(1, 3)
    for axes, columns in ((loss, LOSSES), (score, SCORES), (rate, {"learning_rate": None})):
        for name, label in columns.items():
            axes.plot(epochs, _column(rows, name), marker=".", label=label)
    for axes, title in ((loss, "loss"), (score, "scores on the validation split"), (rate, "learning rate")):
        axes.set(title=title, xlabel="epoch", xlim=(0, 1.03 * max(epochs)))
        axes.grid(alpha=0.3)
    score.set_ylim(0, 1)
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    loss.legend()
    score.legend()
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=100)


def _column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]
