"""The resuming of a run: what is compared, what is refused, and what is written down."""

import dataclasses
import logging
import time
from collections.abc import Collection

from asr.config import Config
from asr.config.reader import config_text, read_config_text, save_config, to_plain
from asr.data.fingerprint import take_fingerprint
from asr.distributed import is_main
from asr.errors import UserError
from asr.record.changes import check_changes, list_changes
from asr.record.record_file import RECORD_NAME, read_config_file
from asr.record.resume_rules import BESIDES_TRAINING, LENGTH
from asr.record.run_dir import RunDir, load_run
from asr.record.run_record import (
    RunRecord,
    data_differences,
    file_differences,
    load_record,
    make_record,
    save_record,
)
from asr.training.optimizer import build_schedule
from asr.training.setup import Setup

log = logging.getLogger("asr")

MAX_LINES = 12


def record_start(run: RunDir, setup: Setup) -> None:
    """Write down what a new run is made of."""
    save_record(run, make_record(run, setup.config, setup.num_steps, _fingerprints(setup)))


class Resumption:
    """One resume of a run.

    Attributes:
        run: its directory.
        config: the settings from now on.
        changes: settings that are not what the run had.
        record: what the run was made of; None of a run that was made before there were records.
    """

    def __init__(self, run: RunDir, config: Config, allowed: Collection[str] = ()):
        """Compare the run's own files and its settings.

        Args:
            run: its directory, held by this process.
            config: the settings: those of the run, changed by the command line.
            allowed: names of what may be other than it was.

        Raises:
            UserError: a file of the run that is damaged or that was edited without leave, or a setting that cannot
                change.
        """
        self.run, self.config, self.record, self._allowed = run, config, load_record(run), set(allowed)
        on_disk = load_run(run.path)[0]
        before = read_config_text(self.record.config, str(run.path / RECORD_NAME)) if self.record else on_disk
        self._before, self.changes = before, list_changes(before, config)
        self._differences = file_differences(run, self.record) if self.record else {}
        if edits := list_changes(before, on_disk):
            self._differences["config"] = [f"{run.config_file} was edited: {edit}" for edit in edits]
        self._refuse_differences()  # first: a file that was cut short is damage, not a wish for other settings
        check_changes(self.changes, run.path)

    def compare(self, setup: Setup) -> None:
        """Compare the data.

        Raises:
            UserError: something is not what it was, and the user did not allow it.
        """
        self._setup, self._prints = setup, _fingerprints(setup, self.record)
        if self.record:
            for name, lines in data_differences(self.record, self._prints).items():
                self._differences[name] = self._differences.get(name, []) + lines
        self._refuse_differences()

    def begin(self, step: int, finished: str) -> None:
        """Say what is other than it was, and write it down with the step from which it holds.

        Args:
            step: of the checkpoint.
            finished: why nothing is left to train, or an empty text.

        Raises:
            UserError: settings without effect on a run in which nothing is left to train.
        """
        idle = [change for change in self.changes if not change.key.startswith(BESIDES_TRAINING)]
        if finished and idle:
            raise UserError(
                f"{self.run.path}: {', '.join(map(str, idle))}: without effect, as nothing is left to train: {finished}"
            )
        if finished:
            log.info("nothing is left to train: %s", finished)
        if self.record is None:
            log.info(
                "%s has no %s, as it was made by an earlier version or the file was moved away: nothing could be "
                "compared with what the run was made of; from now on it has one",
                self.run.path,
                RECORD_NAME,
            )
        for line in self._lines(step):
            log.info("%s", line)
        if is_main() and (self.record is None or self.changes or self._differences):
            self._write_down(step)

    def _refuse_differences(self) -> None:
        refused = {name: lines for name, lines in self._differences.items() if name not in self._allowed}
        if refused:
            raise UserError(
                f"{self.run.path}: what the run was made of has changed since it was written down:\n"
                f"{_listed(refused)}\nPut it back, or resume with what is there now: "
                f"--allow-changed {','.join(self._differences)}"
            )

    def _lines(self, step: int) -> list[str]:
        """Return what is other than it was, and what follows for the length and the learning rate."""
        lines = [f"allowed: {line}" for lines in self._differences.values() for line in lines[:MAX_LINES]]
        lines += [f"from step {step} on: {change}" for change in self.changes]
        steps, steps_before = self._setup.num_steps, self._num_steps_before()
        schedule_before = build_schedule(self._before.optimizer, steps_before)
        rate, rate_before = float(self._setup.schedule(step)), float(schedule_before(step))
        rates = f"the learning rate at step {step} is {rate:.3g} instead of {rate_before:.3g}"
        if steps != steps_before:
            schedule = f"the {self.config.optimizer.schedule} schedule is spread over them"
            lines.append(f"the run has {steps} steps instead of {steps_before}; {schedule}: {rates}")
        elif any(change.key in LENGTH for change in self.changes):
            lines.append(rates)
        return lines

    def _num_steps_before(self) -> int:
        return self.record.num_steps if self.record else self._setup.steps_in(self._before.training.num_epochs)

    def _write_down(self, step: int) -> None:
        """Write the record first and config.yaml after it: `load_own_config` completes what a kill cuts short."""
        config = self._setup.config
        record = make_record(self.run, config, self._setup.num_steps, self._prints)
        before = self.record or RunRecord("", 0, {}, {})
        if self.changes or self._differences:
            record = dataclasses.replace(record, changes=(*before.changes, self._describe(step)))
        previous = read_config_file(self.run.config_file)
        previous = before.previous if previous == record.config else previous
        save_record(self.run, dataclasses.replace(record, previous=previous))
        if config_text(config) != read_config_file(self.run.config_file):
            save_config(config, self.run.config_file)

    def _describe(self, step: int) -> dict:
        settings = {change.key: to_plain((change.before, change.after)) for change in self.changes}
        allowed = [line for lines in self._differences.values() for line in lines]
        return {
            "step": step,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "settings": settings,
            "num_steps": self._setup.num_steps,
            "allowed": allowed,
        }


def _fingerprints(setup: Setup, record: RunRecord | None = None) -> dict:
    sets, before = {"train": setup.train_set, "val": setup.val_set}, record.data if record else {}
    return {
        split: take_fingerprint(dataset, before[split].one_in if split in before else None)
        for split, dataset in sets.items()
    }


def _listed(differences: dict[str, list[str]]) -> str:
    lines = [f"  {name}: {line}" for name, found in differences.items() for line in found]
    return "\n".join(lines[:MAX_LINES] + ([f"  … and {len(lines) - MAX_LINES} more"] if lines[MAX_LINES:] else []))
