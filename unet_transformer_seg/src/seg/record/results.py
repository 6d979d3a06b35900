"""The evaluations in the record of a run: results.csv, a row for each, and metrics.json, the same in detail."""

import contextlib
import csv
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from seg.errors import UserError
from seg.files import open_log, read_bounded, replace_json, replacing

log = logging.getLogger("seg")

NUM_KEYS = 4  # columns that identify a row, at the start of the table: run, model, epoch and step
MAX_ROW, MAX_RECORD_BYTES = 10_000, 1 << 28  # longest row, in characters, and largest table or list, in bytes
MAX_STEPS_SHOWN = 8


class Results:
    """The evaluations of one run: results.csv, a table of `columns`, and metrics.json."""

    def __init__(self, run_path: Path, columns: tuple[str, ...]):
        self.run_path, self.columns = run_path, columns
        self.table_file, self.details_file = run_path / "results.csv", run_path / "metrics.json"

    def add(self, row: dict, details: dict) -> None:
        """Append an evaluation to both files; called within `naming_the_record`."""
        append_rows(self.table_file, [row], self.columns)
        replace_json(self.details_file, self.details() + [details])

    def rows(self) -> list[dict]:
        """Return the rows of the table, see `read_rows`."""
        return read_rows(self.table_file, self.columns) if self.table_file.exists() else []

    def details(self) -> list[dict]:
        """Return the evaluations in detail."""
        if not self.details_file.exists():
            return []
        try:
            details = json.loads(_read(self.details_file).decode("utf-8"))
            return [detail for detail in details if isinstance(detail["step"], int)]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.details_file}: expected a JSON list of evaluations, each with its step "
                f"({type(error).__name__}: {error}); move the file away to begin a new one"
            ) from None

    def check_only_begun(self, checkpoints: Path) -> None:
        """Refuse to restart a run that was evaluated more than once: each evaluation was followed by a checkpoint."""
        steps = sorted(set().union(*self._steps().values()))
        if len(steps) > 1:
            raise UserError(
                f"{checkpoints}: there is no checkpoint, although the run was evaluated {len(steps)} times, last after "
                f"step {steps[-1]}: the checkpoints are lost. Put them back, or begin a new run with --config"
            )

    def drop_after(self, step: int, evaluated: bool = False) -> None:
        """Drop the evaluations after `step`: a resumed run repeats those steps.

        If the run was `evaluated` before, missing evaluations are logged.
        """
        with naming_the_record(self.run_path):
            self._log_missing(
                {path: {s for s in steps if s <= step} for path, steps in self._steps().items()}, evaluated
            )
            if self.table_file.exists():
                rows = [row for row in self.rows() if int(row["step"]) <= step]
                with replacing(self.table_file) as aside:
                    append_rows(aside, rows, self.columns)
            if self.details_file.exists():
                replace_json(self.details_file, [detail for detail in self.details() if detail["step"] <= step])

    def _steps(self) -> dict[Path, set[int]]:
        """Return the steps that were evaluated, by file."""
        return {
            self.table_file: {int(row["step"]) for row in self.rows()},
            self.details_file: {detail["step"] for detail in self.details()},
        }

    def _log_missing(self, steps_by_file: dict[Path, set[int]], evaluated: bool) -> None:
        """Warn of evaluations that one file has and the other has not."""
        known = set().union(*steps_by_file.values())
        for path, steps in steps_by_file.items():
            if missing := sorted(known - steps):
                listed = ", ".join(map(str, missing[:MAX_STEPS_SHOWN])) + (", …" if missing[MAX_STEPS_SHOWN:] else "")
                log.warning("%s: %d earlier evaluations are missing, after the steps %s", path, len(missing), listed)
            elif evaluated and not known:
                log.warning("%s: all earlier evaluations are missing", path)


@contextlib.contextmanager
def naming_the_record(run_path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a UserError that names the file and says that the run can be resumed."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or run_path}: cannot write the record of the run ({error.strerror or error}); its "
            "checkpoints are intact: free some space and resume"
        ) from error


def append_rows(path: Path, rows: list[dict], columns: tuple[str, ...]) -> None:
    """Append rows to a table, after the header if they are the first; they are on the disk when this returns."""
    with io.TextIOWrapper(open_log(path), encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict]:
    """Return the rows of a table; a last line that was cut off and malformed lines are skipped."""
    text = _read(path).decode("utf-8", errors="replace")
    whole_lines = text[: text.rfind("\n") + 1]
    lines = [line for line in whole_lines.splitlines() if 0 < len(line) <= MAX_ROW]
    heads, *rows = [next(csv.reader([line])) for line in lines] or [[]]  # one by one: an open quote ends with its line
    if lines and tuple(heads[:NUM_KEYS]) != columns[:NUM_KEYS]:
        raise UserError(
            f"{path}: expected a table that begins with the columns {', '.join(columns[:NUM_KEYS])}, found "
            f"{lines[0]!r:.80}; move it away to begin a new one"
        )
    named = [dict(zip(heads, row, strict=True)) for row in rows if len(row) == len(heads)]
    return [row for row in named if _is_row(row, columns)]


def _is_row(row: dict, columns: tuple[str, ...]) -> bool:
    """Return whether the row has exactly the columns of the table, and numbers where they belong."""
    try:
        int(row["step"]), [float(row[name]) for name in columns[2:]]
    except (KeyError, TypeError, ValueError):
        return False
    return row.keys() == set(columns)


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_RECORD_BYTES)
    except UserError as error:
        raise UserError(f"{error}; move it away") from None
