"""Resumes a run: compares what it was made of with what is there now, and records the changes."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Collection
from typing import Any

from asr.config import Config, OptimizerConfig
from asr.config.reader import config_text, read_config_text, save_config, to_plain
from asr.data.fingerprint import take_fingerprint
from asr.distributed import is_main
from asr.errors import UserError
from asr.record.changes import check_changes, list_changes
from asr.record.record_file import RECORD_NAME, read_config_file
from asr.record.resume_rules import BESIDES_TRAINING, LENGTH
from asr.record.run_dir import RunDir, load_run
from asr.record.run_record import RunRecord, data_differences, file_differences, load_record, make_record, save_record

log = logging.getLogger("asr")

MAX_LINES = 12


def record_start(run: RunDir, setup: Any) -> None:
    """Record what a new run is made of; `setup` is its `asr.training.setup.Setup`."""
    save_record(run, make_record(run, setup.config, setup.num_steps, _fingerprints(setup)))


class Resumption:
    """One resume of a run; `record` is None if the run is older than records."""

    def __init__(self, run: RunDir, config: Config, allowed: Collection[str] = ()):
        """Compare the run's own files and its settings with `config`, as the command line changed it."""
        self.run, self.config, self.record, self._allowed = run, config, load_record(run), set(allowed)
        on_disk = load_run(run.path)[0]
        before = read_config_text(self.record.config, str(run.path / RECORD_NAME)) if self.record else on_disk
        self._before, self.changes = before, list_changes(before, config)
        self._differences = file_differences(run, self.record) if self.record else {}
        if edits := list_changes(before, on_disk):
            self._differences["config"] = [f"{run.config_file} was edited: {edit}" for edit in edits]
        self._refuse_differences()  # first: a truncated file is damage, not a change of settings
        check_changes(self.changes, run.path)

    def compare(self, setup: Any) -> None:
        """Compare the data of the run's pieces, a `asr.training.setup.Setup`."""
        self._setup, self._prints = setup, _fingerprints(setup, self.record)
        if self.record:
            for name, lines in data_differences(self.record, self._prints).items():
                self._differences[name] = self._differences.get(name, []) + lines
        self._refuse_differences()

    def begin(
        self, step: int, finished: bool, stopped_early: bool, build_schedule: Callable[[OptimizerConfig, int], Callable]
    ) -> None:
        """Log what has changed, and record it with the step of the checkpoint, from which it applies."""
        idle = [change for change in self.changes if not change.key.startswith(BESIDES_TRAINING)]
        end = self._describe_end(step, stopped_early) if finished else ""
        if finished and idle:
            raise UserError(
                f"{self.run.path}: {', '.join(map(str, idle))}: without effect, as nothing is left to train: {end}"
            )
        if finished:
            log.info("nothing is left to train: %s", end)
        if self.record is None:
            log.info(
                "%s has no %s: an earlier version made the run, or the file was moved away; nothing could be compared "
                "with what the run was made of; from now on it has one",
                self.run.path,
                RECORD_NAME,
            )
        for line in self._lines(step, build_schedule):
            log.info("%s", line)
        if is_main() and (self.record is None or self.changes or self._differences):
            self._write_down(step)

    def _describe_end(self, step: int, stopped_early: bool) -> str:
        """Return why nothing is left to train after `step`, and what to type to train on."""
        setup, training = self._setup, self._setup.config.training
        reason, settings = f"{step} steps are done, and the run has {setup.num_steps}", []
        if step >= setup.num_steps:
            epochs = math.ceil(step / setup.loader.steps_per_epoch)
            settings.append(f"training.num_epochs={2 * max(training.num_epochs, epochs)}")
        if stopped_early:
            reason += f", and the run stopped early (training.early_stop={training.early_stop})"
            settings.append("training.early_stop=0")
        return f"{reason}. To train on: {self.run.resume_command} {' '.join(settings)}"

    def _refuse_differences(self) -> None:
        refused = {name: lines for name, lines in self._differences.items() if name not in self._allowed}
        if refused:
            raise UserError(
                f"{self.run.path}: what the run was made of has changed:\n"
                f"{_listed(refused)}\nPut it back, or resume with what is there now: "
                f"--allow-changed {','.join(self._differences)}"
            )

    def _lines(self, step: int, build_schedule: Callable) -> list[str]:
        """Return what has changed, and the effect on the length and the learning rate."""
        lines = [f"allowed: {line}" for lines in self._differences.values() for line in lines[:MAX_LINES]]
        lines += [f"from step {step} on: {change}" for change in self.changes]
        steps, epochs_before = self._setup.num_steps, self._before.training.num_epochs
        steps_before = self.record.num_steps if self.record else self._setup.steps_in(epochs_before)
        schedule_before = build_schedule(self._before.optimizer, steps_before)
        rate, rate_before = float(self._setup.schedule(step)), float(schedule_before(step))
        rates = f"the learning rate at step {step} is {rate:.3g} instead of {rate_before:.3g}"
        if steps != steps_before:
            schedule = f"the {self.config.optimizer.schedule} schedule is spread over them"
            lines.append(f"the run has {steps} steps instead of {steps_before}; {schedule}: {rates}")
        elif any(change.key in LENGTH for change in self.changes):
            lines.append(rates)
        return lines

    def _write_down(self, step: int) -> None:
        """Write the record, then config.yaml: after a kill between them, `load_own_config` completes the change."""
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


def _fingerprints(setup: Any, record: RunRecord | None = None) -> dict:
    sets, before = {"train": setup.train_set, "val": setup.val_set}, record.data if record else {}
    return {
        split: take_fingerprint(dataset, before[split].one_in if split in before else None)
        for split, dataset in sets.items()
    }


def _listed(differences: dict[str, list[str]]) -> str:
    lines = [f"  {name}: {line}" for name, changes in differences.items() for line in changes]
    return "\n".join(lines[:MAX_LINES] + ([f"  … and {len(lines) - MAX_LINES} more"] if lines[MAX_LINES:] else []))
