"""The written record of a training run: log, table, detail, curves, sample pictures, TensorBoard."""

import logging
import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from seg.classes import ClassTable
from seg.config import Config
from seg.files import replacing
from seg.metrics import warn_never_predicted
from seg.pictures import draw_comparison
from seg.record.evaluation import Evaluation
from seg.record.results import Results, naming_the_record
from seg.record.run_dir import RunDir
from seg.record.tensorboard import TensorBoard

LOSSES = {"train_loss": "training", "val_loss": "validation"}
SCORES = {"mean_iou": "mean IoU", "mean_dice": "mean Dice", "pixel_accuracy": "pixel accuracy"}


def draw_curves(rows: list[dict[str, str]], path: Path) -> None:
    """Draw loss, scores and learning rate over the epochs as a PNG, from the rows of results.csv, if there are any."""
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


log = logging.getLogger("seg")

COLUMNS = ("run_id", "model_type", "epoch", "step", "train_loss", "val_loss", "mean_iou", "mean_dice")
COLUMNS += ("pixel_accuracy", "learning_rate", "images_per_s", "seconds")


class Report:
    """Writes the record of one run."""

    def __init__(self, run: RunDir, config: Config, classes: ClassTable):
        self.run, self.config, self.classes = run, config, classes
        self.results = Results(run.path, COLUMNS)
        self.tensorboard = TensorBoard(run.path / "tensorboard", config.training.tensorboard)

    def log_step(self, step: int, loss: float, grad_norm: float, learning_rate: float) -> None:
        """Log one step; the terminal has its progress line."""
        log.debug("step %d: loss %.4f, gradient norm %.3f, learning rate %.3g", step, loss, grad_norm, learning_rate)
        self.tensorboard.scalars(step, {"loss/train": loss, "grad_norm": grad_norm, "learning_rate": learning_rate})

    def evaluation(self, evaluation: Evaluation, *, epoch: float, step: int, **numbers: float) -> None:
        """Record one evaluation, after `epoch` passes and `step` updates, in tables, pictures, TensorBoard and log.

        `numbers` are the columns train_loss, learning_rate, images_per_s and seconds.
        """
        metrics = evaluation.metrics
        scores = {name: getattr(metrics, name) for name in ("mean_iou", "mean_dice", "pixel_accuracy")}
        numbers = {"epoch": epoch, "step": step, "val_loss": evaluation.loss} | numbers
        row = {"run_id": self.run.run_id, "model_type": self.config.model.name} | numbers | scores
        details = {name: _json_number(v) for name, v in numbers.items()} | metrics.to_dict(self.classes.names)
        details |= {name: _json_number(value) for name, value in evaluation.custom.items()}
        details |= {"thresholds": evaluation.thresholds} if evaluation.thresholds else {}
        shown = {f"val/{name}": value for name, value in (scores | evaluation.custom).items()}
        with naming_the_record(self.run.path):
            self.results.add(row, details)
            draw_curves(self.results.rows(), self.run.path / "curves.png")
            self._draw_samples(evaluation, step)
            self.tensorboard.scalars(step, {"loss/val": evaluation.loss} | shown)
        log.info(
            "epoch %g (step %d): train loss %.4f, val loss %.4f, mean IoU %.4f, pixel accuracy %.4f, %.1f images/s",
            round(epoch, 2),
            step,
            numbers["train_loss"],
            evaluation.loss,
            metrics.mean_iou,
            metrics.pixel_accuracy,
            numbers["images_per_s"],
        )
        for name, value in evaluation.custom.items():
            log.info("%s: %.4g", name, value)
        for warning in warn_never_predicted(metrics, self.classes.names):
            log.warning(warning)

    def _draw_samples(self, evaluation: Evaluation, step: int) -> None:
        if not evaluation.samples:
            return
        self.run.samples.mkdir(exist_ok=True)
        images, masks, predictions = (list(part) for part in zip(*evaluation.samples, strict=True))
        path = self.run.samples / f"step_{step:08d}.png"
        draw_comparison(images, masks, predictions, self.classes, path)
        self.tensorboard.picture(step, "val/samples", path)


def _json_number(value: float) -> float | None:
    """Return `value`, or None for what JSON has no number for."""
    return value if math.isfinite(value) else None
