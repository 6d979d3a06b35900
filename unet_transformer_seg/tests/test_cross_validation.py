"""Cross-validation: each fold once, in order, continued where it stopped, and one summary."""

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import seg.train as train_command
from seg.cli import run_command
from seg.config import Config, DataConfig, TrainingConfig
from seg.config.reader import save_config
from seg.cross_validation import train_folds, with_folds
from seg.errors import UserError

IOUS = (0.5, 0.7, 0.9)


@pytest.fixture
def config(tmp_path):
    data = DataConfig(dataset="image_folder", root="cells", num_folds=3)
    return Config(name="cells", runs_dir=str(tmp_path), data=data)


class Trainer:
    """Stands for `seg.api.train`: makes run directories, and stops at the calls that `stops` numbers."""

    def __init__(self, stops=()):
        self.calls, self._stops = [], stops

    def __call__(self, config, resume, max_minutes, owns_process):
        path = resume or Path(config.runs_dir) / f"20260101_00000{config.data.fold}_{config.name}"
        self.calls.append((config, resume, max_minutes))
        path.mkdir(parents=True, exist_ok=True)
        save_config(config, path / "config.yaml")
        iou = IOUS[config.data.fold]
        classes = [{"name": "object", "iou": iou, "dice": None}]
        best = {"step": 2, "mean_iou": iou, "mean_dice": 0.8, "pixel_accuracy": 0.9, "classes": classes}
        (path / "metrics.json").write_text(json.dumps([best | {"step": 1, "mean_iou": 0.1}, best]))
        stopped = len(self.calls) in self._stops
        return SimpleNamespace(path=path, finished=not stopped, exit_code=143 if stopped else 0)


def test_every_fold_is_trained_once_and_summarised(config, tmp_path, capsys):
    train = Trainer()
    assert train_folds(config, train) == 0
    assert [(c.data.fold, c.data.num_folds, c.name) for c, *_ in train.calls] == [
        (fold, 3, f"cells_fold{fold}") for fold in range(3)
    ]
    content = json.loads((tmp_path / "cells_folds/folds.json").read_text())
    assert content["summary"]["mean_iou"] == {"mean": pytest.approx(0.7), "sd": pytest.approx(statistics.stdev(IOUS))}
    assert content["summary"]["dice object"] == {"mean": None, "sd": None}
    assert [content["folds"][str(fold)]["iou object"] for fold in range(3)] == list(IOUS)
    assert "0.7000 ± 0.2000    0.5000   0.7000   0.9000" in capsys.readouterr().out


def test_a_call_that_was_stopped_is_continued_fold_by_fold(config, capsys):
    first = Trainer(stops=(2,))
    assert train_folds(config, first) == 143 and len(first.calls) == 2
    assert "the same command does the rest" in capsys.readouterr().out
    second = Trainer()
    assert train_folds(config, second) == 0
    assert [(c.data.fold, resume is not None) for c, resume, _ in second.calls] == [(1, True), (2, False)]
    assert train_folds(config, third := Trainer()) == 0 and not third.calls
    assert "0.7000 ± 0.2000" in capsys.readouterr().out


def test_finished_folds_with_other_settings_are_resumed(config):
    train_folds(config, Trainer())
    longer = dataclasses.replace(config, training=TrainingConfig(num_epochs=99))
    train_folds(longer, again := Trainer())
    assert [resume is not None for _, resume, _ in again.calls] == [True] * 3


def test_the_time_counts_for_all_folds_together(config, monkeypatch):
    clock = iter([0.0, 0.0, 90.0, 200.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    train = Trainer()
    assert train_folds(config, train, max_minutes=3) == 75
    assert [minutes for *_, minutes in train.calls] == [3.0, 1.5]


def test_folds_take_the_place_of_a_validation_split_and_damage_is_named(config, tmp_path):
    data = dataclasses.replace(config.data, num_folds=0, val_fraction=0.2)
    assert with_folds(dataclasses.replace(config, data=data)).data == dataclasses.replace(
        config.data, num_folds=5, val_fraction=0.0
    )
    with pytest.raises(UserError, match="toy_shapes has splits of its own"):
        with_folds(Config())
    (tmp_path / "cells_folds").mkdir()
    (tmp_path / "cells_folds/folds.json").write_text("[]")
    with pytest.raises(UserError, match=r"folds.json: damaged .* move it away"):
        train_folds(config, Trainer())


@pytest.mark.parametrize("more", [["--resume", "x"], ["--dry-run"], ["--profile", "3"]])
def test_the_command_refuses_what_is_no_new_training(monkeypatch, capsys, more):
    monkeypatch.setattr(sys, "argv", ["train", "--config", "toy_unet", "--folds", *more])
    with pytest.raises(SystemExit) as end:
        run_command(train_command.main)
    assert end.value.code == 2 and f"--folds and {more[0]} exclude each other" in capsys.readouterr().err
