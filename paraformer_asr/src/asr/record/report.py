"""The written record of a training run: log, table, detail, curves, transcripts, alignments, TensorBoard."""

import contextlib
import csv
import io
import json
import logging
import logging.handlers
import os
from collections.abc import Iterator
from pathlib import Path

import jax

from asr.config import Config
from asr.distributed import is_main
from asr.errors import UserError
from asr.files import open_log, read_bounded, replace_json, replace_text, replacing
from asr.pictures import draw_alignment
from asr.record.curves import draw_curves
from asr.record.evaluation import Evaluation
from asr.record.evaluation_record import describe, format_transcript
from asr.record.log_file import HarmlessFormatter, LogFile
from asr.record.past_evaluations import say_what_is_missing
from asr.record.progress_bar import write_above_line
from asr.record.run_dir import RunDir
from asr.record.tensorboard import open_tensorboard

log = logging.getLogger("asr")

COLUMNS = (
    "run_id",
    "model_type",
    "epoch",
    "step",
    "train_loss",
    "val_loss",
    "wer",
    "cer",
    "ter",
    "quantity_error",
    "learning_rate",
    "audio_s_per_s",
    "seconds",
)

KEYS = COLUMNS[:4]


class Report:
    """Writes the record of one run."""

    def __init__(self, run: RunDir, config: Config):
        self.run, self.config = run, config
        self.results_file, self.metrics_file = run.path / "results.csv", run.path / "metrics.json"
        self.tensorboard = open_tensorboard(run.path / "tensorboard", config.training.tensorboard)

    def log_step(self, step: int, metrics: dict[str, float], learning_rate: float) -> None:
        """Note one step in the log file; the terminal has its progress line.

        Args:
            step: number of the update.
            metrics: "loss", "grad_norm", and whatever else the step tells.
            learning_rate: of the update.
        """
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
        """Note one evaluation everywhere.

        Args:
            evaluation: what the evaluation found.
            epoch: passes over the training data so far.
            step: updates so far.
            numbers: the columns train_loss, learning_rate, audio_s_per_s and seconds.

        Raises:
            UserError: a file cannot be written.
        """
        scores = evaluation.rates | {"quantity_error": evaluation.quantity_error}
        numbers = {"epoch": epoch, "step": step, "val_loss": evaluation.loss} | numbers
        row = {"run_id": self.run.run_id, "model_type": self.config.model.name} | numbers | scores
        with self._naming_the_run():
            append_rows(self.results_file, [row])
            replace_json(self.metrics_file, self._details() + [describe(evaluation, numbers)])
            draw_curves(read_rows(self.results_file), self.run.path / "curves.png")
            self._show_samples(evaluation, step)
            self.tensorboard.scalars(step, {"loss/val": evaluation.loss} | {f"val/{k}": v for k, v in scores.items()})
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

    def _show_samples(self, evaluation: Evaluation, step: int) -> None:
        """Write the transcripts, and draw the alignments: the first as step_….png, the next as step_…_2.png."""
        self.run.samples.mkdir(exist_ok=True)
        name, features = f"step_{step:08d}", self.config.features
        if evaluation.transcripts:
            text = "\n".join(map(format_transcript, evaluation.transcripts))
            replace_text(self.run.samples / f"{name}.txt", text)
        for number, aligned in enumerate(evaluation.alignments, 1):
            path = self.run.samples / (f"{name}.png" if number == 1 else f"{name}_{number}.png")
            title = f"{aligned.transcribed.name}\nsaid: {aligned.transcribed.reference}"
            draw_alignment(
                aligned.mel_tm,
                aligned.alignment_ut,
                aligned.tokens,
                features.output_shift_ms / 1000,
                path,
                title,
                mel_shift_s=features.frame_shift_ms / 1000,
                token_ids=aligned.ids,
            )
            self.tensorboard.picture(step, f"val/alignment_{number}", path)


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


class _AboveProgressLine(logging.Handler):
    def emit(self, record):
        write_above_line(self.format(record))


def setup_logging() -> None:
    """Send the messages of `asr` to the terminal, and keep them for the log file until there is one.

    A process that is not the first of its run shows its warnings alone, with its number.
    """
    close_logging()
    terminal, waiting = _AboveProgressLine(), logging.handlers.MemoryHandler(capacity=10_000, flushLevel=1000)
    terminal.setLevel(logging.INFO if is_main() else logging.WARNING)
    who = "" if is_main() else f"process {jax.process_index()}: "
    terminal.setFormatter(HarmlessFormatter(f"{who}%(message)s"))
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(terminal)
    log.addHandler(waiting)


def open_log_file(log_file: Path) -> None:
    """Write to `log_file` what waits for it, and from now on all messages and the details of each step."""
    file = LogFile(log_file)
    file.setFormatter(HarmlessFormatter("%(asctime)s %(levelname)s %(message)s"))
    for waiting in [h for h in log.handlers if isinstance(h, logging.handlers.MemoryHandler)]:
        waiting.setTarget(file)
        log.removeHandler(waiting)
        waiting.close()
    log.addHandler(file)


def close_logging() -> None:
    """Close what `setup_logging` and `open_log_file` opened, and undo their settings."""
    for handler in list(log.handlers):
        if isinstance(handler, _AboveProgressLine | logging.FileHandler | logging.handlers.MemoryHandler):
            log.removeHandler(handler)
            handler.close()
    log.setLevel(logging.NOTSET)
    log.propagate = True
