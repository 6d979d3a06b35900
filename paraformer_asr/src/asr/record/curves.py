"""The curves of a run as a picture."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from asr.files import replacing

LOSSES = {"train_loss": "training", "val_loss": "validation"}
RATES = {"wer": "words (WER)", "cer": "characters (CER)", "ter": "tokens (TER)"}
STYLES = {"cer": {"linewidth": 5, "alpha": 0.4}, "ter": {"linestyle": "--", "linewidth": 1.2}}
"""Where tokens are characters, both rates are equal: the one shows on top of the other."""


def draw_curves(rows: list[dict[str, str]], path: Path) -> None:
    """Draw losses, error rates, the error of the token count and the learning rate over the epochs.

    Without a row there is no picture.

    Args:
        rows: of results.csv.
        path: PNG file, replaced at once.
    """
    if not rows:
        return
    epochs = _column(rows, "epoch")
    figure = Figure(figsize=(16, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, error, quantity, rate = figure.subplots(1, 4)
    panels = (
        (loss, LOSSES, "loss for each token"),
        (error, RATES, "error rates on the validation split"),
        (quantity, {"quantity_error": None}, "tokens miscounted in an utterance, mean |N − Σα|"),
        (rate, {"learning_rate": None}, "learning rate"),
    )
    for axes, columns, title in panels:
        for name, label in columns.items():
            axes.plot(epochs, _column(rows, name), marker=".", label=label, **STYLES.get(name, {}))
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="epoch", xlim=(0, 1.03 * max(epochs)))
        axes.grid(alpha=0.3)
    # The first epochs may insert more tokens than there are: what lies above 1 is cut off.
    highest = max((min(x, 1.0) for name in RATES for x in _column(rows, name) if x > 0), default=1.0)
    error.set_ylim(0, 1.05 * highest)
    quantity.set_ylim(bottom=0)
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    loss.legend()
    error.legend()
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=100)


def _column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]
