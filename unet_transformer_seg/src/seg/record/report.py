"""The written record of a training run: log, table, detail, curves, sample pictures, TensorBoard."""

import contextlib
import csv
import io
import json
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path

import jax

from seg.classes import ClassTable
from seg.config import Config
from seg.errors import UserError
from seg.files import open_log, read_bounded, replace_json, replacing
from seg.metrics import warn_never_predicted
from seg.pictures import draw_comparison
from seg.record.curves import draw_curves
from seg.record.evaluation import Evaluation
from seg.record.log_file import HarmlessFormatter, LogFile
from seg.record.past_evaluations import say_what_is_missing
from seg.record.progress_bar import write_above_line
from seg.record.run_dir import RunDir
from seg.record.tensorboard import open_tensorboard

log = logging.getLogger("seg")

COLUMNS = (
    "run_id",
    "model_type",
    "epoch",
    "step",
    "train_loss",
    "val_loss",
    "mean_iou",
    "mean_dice",
    "pixel_accuracy",
    "learning_rate",
    "images_per_s",
    "seconds",
)

KEYS = COLUMNS[:4]


class Report:
    """Writes the record of one run."""

    def __init__(self, run: RunDir, config: Config, classes: ClassTable):
        self.run, self.config, self.classes = run, config, classes
        self.results_file, self.metrics_file = run.path / "results.csv", run.path / "metrics.json"
        self.tensorboard = open_tensorboard(run.path / "tensorboard", config.training.tensorboard)

    def log_step(self, step: int, loss: float, grad_norm: float, learning_rate: float) -> None:
        """Note one step in the log file; the terminal has its progress line."""
        log.debug("step %d: loss %.4f, gradient norm %.3f, learning rate %.3g", step, loss, grad_norm, learning_rate)
        self.tensorboard.scalars(step, {"loss/train": loss, "grad_norm": grad_norm, "learning_rate": learning_rate})

    def evaluation(self, evaluation: Evaluation, *, epoch: float, step: int, **numbers: float) -> None:
        """Note one evaluation everywhere.

        Args:
            evaluation: what the evaluation found.
            epoch: passes over the training data so far.
            step: updates so far.
            numbers: the columns train_loss, learning_rate, images_per_s and seconds.

        Raises:
            UserError: a file cannot be written.
        """
        metrics = evaluation.metrics
        scores = {name: getattr(metrics, name) for name in ("mean_iou", "mean_dice", "pixel_accuracy")}
        numbers = {"epoch": epoch, "step": step, "val_loss": evaluation.loss} | numbers
        row = {"run_id": self.run.run_id, "model_type": self.config.model.name} | numbers | scores
        detail = {name: _json_number(v) for name, v in numbers.items()} | metrics.to_dict(self.classes.names)
        with self._naming_the_run():
            append_rows(self.results_file, [row])
            replace_json(self.metrics_file, self._details() + [detail])
            draw_curves(read_rows(self.results_file), self.run.path / "curves.png")
            self._draw_samples(evaluation, step)
            self.tensorboard.scalars(step, {"loss/val": evaluation.loss} | {f"val/{k}": v for k, v in scores.items()})
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
        for warning in warn_never_predicted(metrics, self.classes.names):
            log.warning(warning)

    def evaluated_steps(self) -> dict[Path, set[int]]:
        """Return, by file, the steps after which it has an evaluation.

        Raises:
            UserError: a file cannot be read.
        """
        rows = read_rows(self.results_file) if self.results_file.exists() else []
        return {
            self.results_file: {int(row["step"]) for row in rows},
            self.metrics_file: {detail["step"] for detail in self._details()},
        }

    def drop_after(self, step: int, evaluated: bool = False) -> None:
        """Drop what was noted after `step`: a resumed run goes through those steps once more.

        Args:
            step: of the restored state.
            evaluated: whether the run was evaluated up to there; what is missing then is said.

        Raises:
            UserError: a file cannot be read or written.
        """
        with self._naming_the_run():
            known = self.evaluated_steps()
            say_what_is_missing({path: {s for s in steps if s <= step} for path, steps in known.items()}, evaluated)
            if self.results_file.exists():
                rows = [row for row in read_rows(self.results_file) if int(row["step"]) <= step]
                with replacing(self.results_file) as aside:
                    append_rows(aside, rows)
            if self.metrics_file.exists():
                replace_json(self.metrics_file, [detail for detail in self._details() if detail["step"] <= step])

    @contextlib.contextmanager
    def _naming_the_run(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.run.path
            raise UserError(
                f"{where}: the record of the run cannot be written ({error.strerror or error}); its "
                "checkpoints are intact, so that it can be resumed once the disk is in order"
            ) from error

    def _details(self) -> list[dict]:
        if not self.metrics_file.exists():
            return []
        try:
            details = json.loads(read_record(self.metrics_file).decode("utf-8"))
            return [detail for detail in details if isinstance(detail["step"], int)]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.metrics_file}: expected a JSON list of evaluations, each with its step "
                f"({type(error).__name__}: {error}); move the file away to begin a new one"
            ) from None

    def _draw_samples(self, evaluation: Evaluation, step: int) -> None:
        if not evaluation.samples:
            return
        self.run.samples.mkdir(exist_ok=True)
        images, masks, predictions = (list(part) for part in zip(*evaluation.samples, strict=True))
        path = self.run.samples / f"step_{step:08d}.png"
        draw_comparison(images, masks, predictions, self.classes, path)
        self.tensorboard.picture(step, "val/samples", path)


def append_rows(path: Path, rows: list[dict]) -> None:
    """Append rows of COLUMNS to a table, with the header where they are the first, on disk before this returns."""
    with io.TextIOWrapper(open_log(path), encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())


MAX_ROW, MAX_RECORD_BYTES = 10_000, 1 << 28
"""Characters of a row, and bytes of a whole table or list; none is so long."""


def read_record(path: Path) -> bytes:
    """Return the bytes of a file of the record; what stands in its place may be a pipe or a device without an end.

    Raises:
        UserError: it is no file, or larger than any record.
    """
    try:
        return read_bounded(path, MAX_RECORD_BYTES)
    except UserError as error:
        raise UserError(f"{error}; move it away") from None


def read_rows(path: Path) -> list[dict]:
    """Return the rows of a results table; a last line that was cut off and lines that are no row are left out.

    Raises:
        UserError: it is no results table.
    """
    text = read_record(path).decode("utf-8", errors="replace")
    whole_lines = text[: text.rfind("\n") + 1]
    lines = [line for line in whole_lines.splitlines() if 0 < len(line) <= MAX_ROW]
    heads, *rows = [next(csv.reader([line])) for line in lines] or [[]]  # one by one: an open quote ends with its line
    if lines and heads[: len(KEYS)] != list(KEYS):
        raise UserError(
            f"{path}: expected a table that begins with the columns {', '.join(KEYS)}, found {lines[0]!r:.80}; move it "
            "away to begin a new one"
        )
    named = [dict(zip(heads, row, strict=True)) for row in rows if len(row) == len(heads)]
    return [row for row in named if _is_row(row)]


def _is_row(row: dict) -> bool:
    """Return whether the row has just the columns of the table, and numbers where they belong."""
    try:
        int(row["step"]), [float(row[name]) for name in COLUMNS[2:]]
    except (KeyError, TypeError, ValueError):
        return False
    return row.keys() == set(COLUMNS)


def _json_number(value: float) -> float | None:
    """Return `value`, or None for what JSON has no number for."""
    return value if math.isfinite(value) else None


class _AboveProgressLine(logging.Handler):
    def emit(self, record):
        write_above_line(self.format(record))


def setup_logging(log_file: Path | None) -> None:
    """Send the messages of `seg` to the terminal, and those and the details of each step to `log_file`.

    Args:
        log_file: None in a process that is not the first of its run: its warnings alone are shown, with its number.
    """
    close_logging()
    terminal = _AboveProgressLine()
    terminal.setLevel(logging.INFO if log_file else logging.WARNING)
    terminal.setFormatter(
        HarmlessFormatter("%(message)s" if log_file else f"process {jax.process_index()}: %(message)s")
    )
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(terminal)
    if log_file:
        file = LogFile(log_file)
        file.setFormatter(HarmlessFormatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)


def close_logging() -> None:
    """Close what `setup_logging` opened, and undo its settings."""
    for handler in list(log.handlers):
        if isinstance(handler, _AboveProgressLine | logging.FileHandler):
            log.removeHandler(handler)
            handler.close()
    log.setLevel(logging.NOTSET)
    log.propagate = True
