"""The written record of a training run: log, table, detail, curves, transcripts, alignments, TensorBoard."""

import logging
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from asr.config import Config
from asr.files import replace_text, replacing
from asr.record.evaluation import Evaluation
from asr.record.results import Results, naming_the_record
from asr.record.run_dir import RunDir
from asr.record.tensorboard import TensorBoard

LOSSES = {"train_loss": "training", "val_loss": "validation"}
RATES = {"wer": "words (WER)", "cer": "characters (CER)", "ter": "tokens (TER)"}
STYLES = {"cer": {"linewidth": 5, "alpha": 0.4}, "ter": {"linestyle": "--", "linewidth": 1.2}}
"""Where tokens are characters, both rates are equal: the one shows on top of the other."""


def draw_curves(rows: list[dict[str, str]], path: Path) -> None:
    """Draw losses, error rates, the error of the token count and the learning rate over the epochs.

    `rows` are those of results.csv; without a row there is no picture.
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


log = logging.getLogger("asr")

COLUMNS = ("run_id", "model_type", "epoch", "step", "train_loss", "val_loss", "wer", "cer", "ter", "quantity_error")
COLUMNS += ("learning_rate", "audio_s_per_s", "seconds")


class Report:
    """Writes the record of one run."""

    def __init__(self, run: RunDir, config: Config):
        self.run, self.config = run, config
        self.results = Results(run.path, COLUMNS)
        self.tensorboard = TensorBoard(run.path / "tensorboard", config.training.tensorboard)

    def log_step(self, step: int, metrics: dict[str, float], learning_rate: float) -> None:
        """Log one step; the terminal has its progress line."""
        others = [f"{name} {value:.4f}" for name, value in metrics.items() if name not in ("loss", "grad_norm")]
        log.debug(
            "step %d: loss %.4f (%s), gradient norm %.3f, learning rate %.3g",
            step,
            metrics["loss"],
            ", ".join(others),
            metrics["grad_norm"],
            learning_rate,
        )
        names = {"loss": "loss/train", "grad_norm": "grad_norm"}
        values = {names.get(name, f"train/{name}"): value for name, value in metrics.items()}
        self.tensorboard.scalars(step, values | {"learning_rate": learning_rate})

    def evaluation(self, evaluation: Evaluation, *, epoch: int, step: int, **numbers: float) -> None:
        """Record one evaluation in tables, pictures, TensorBoard and log.

        `numbers` are the columns train_loss, learning_rate, audio_s_per_s and seconds.
        """
        scores = evaluation.rates | {"quantity_error": evaluation.quantity_error}
        numbers = {"epoch": epoch, "step": step, "val_loss": evaluation.loss} | numbers
        row = {"run_id": self.run.run_id, "model_type": self.config.model.name} | numbers | scores
        with naming_the_record(self.run.path):
            self.results.add(row, evaluation.to_dict(numbers))
            draw_curves(self.results.rows(), self.run.path / "curves.png")
            self._show_samples(evaluation, step)
            shown = {f"val/{name}": value for name, value in (scores | evaluation.custom).items()}
            self.tensorboard.scalars(step, {"loss/val": evaluation.loss} | shown)
        log.info(
            "epoch %d (step %d): train loss %.4f, val loss %.4f, WER %.2f %%, CER %.2f %%, TER %.2f %%, "
            "miscounted %.2f tokens, %.1f × real time",
            epoch,
            step,
            numbers["train_loss"],
            evaluation.loss,
            *(100 * rate for rate in evaluation.rates.values()),
            evaluation.quantity_error,
            numbers["audio_s_per_s"],
        )
        if evaluation.custom:
            log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in evaluation.custom.items()))

    def _show_samples(self, evaluation: Evaluation, step: int) -> None:
        """Write the transcripts, and draw the alignments: the first as step_….png, the next as step_…_2.png."""
        self.run.samples.mkdir(exist_ok=True)
        name = f"step_{step:08d}"
        if evaluation.transcripts:
            text = "\n".join(map(str, evaluation.transcripts))
            replace_text(self.run.samples / f"{name}.txt", text)
        for number, (transcribed, aligned) in enumerate(evaluation.alignments, 1):
            path = self.run.samples / (f"{name}.png" if number == 1 else f"{name}_{number}.png")
            aligned.draw(self.config.features, path, f"{transcribed.name}\nsaid: {transcribed.reference}")
            self.tensorboard.picture(step, f"val/alignment_{number}", path)
