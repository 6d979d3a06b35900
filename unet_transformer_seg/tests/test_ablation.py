"""Ablations: variants that the config accepts, pieces that go on where they stopped, and their table."""

import csv
import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from seg.cli import run_command
from seg.config.reader import load_config

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu" / "ablate_camvid.py"


@pytest.fixture
def ablate():
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("ablate_camvid", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakeCommands:
    """Stands in for training and scoring: the runs are made, in as many pieces as `pieces` says.

    Attributes:
        calls: (module, run name, settings) of each.
    """

    def __init__(self, monkeypatch, module, pieces=1, speeds=None):
        self.calls, self._pieces, self._speeds, self._trained = [], pieces, speeds or {}, {}
        self._real = module.subprocess.run
        monkeypatch.setattr(module.subprocess, "run", self._run)

    def _run(self, command, **options):
        if command[1] != "-m":
            return self._real(command, **options)  # writes the lists of the sequence that is held out
        words = command[3:]
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        if command[2] == "seg.train":
            if words[0] == "--config":
                run = Path(settings["runs_dir"]) / f"20250101_000000_{settings['name']}"
                run.mkdir(parents=True)
                self._trained[run] = 0, settings
            else:
                run = Path(words[1])
            self._trained[run] = self._trained[run][0] + 1, self._trained[run][1]
            self.calls.append(("train", run.name[16:], settings))
            return types.SimpleNamespace(returncode=0 if self._trained[run][0] == self._pieces else 75)
        run = Path(words[1])
        self.calls.append(("score", run.name[16:], settings))
        settings = self._trained[run][1]
        speed, epochs = self._speeds.get(run.name[16:-6], 100.0), float(settings.get("training.num_epochs", 40))
        (run / "eval_val").mkdir()
        (run / "eval_val" / "metrics.json").write_text(json.dumps({"mean_iou": 0.6, "pixel_accuracy": 0.9}))
        with (run / "results.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["epoch", "seconds", "images_per_s"], [epochs, 600, speed]])
        return types.SimpleNamespace(returncode=0)


def make_data(folder):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / "data" / split / kind).mkdir(parents=True)
        for name in ("0006R0_1", "0016E5_1"):
            (folder / "data" / split / "images" / f"{name}.png").touch()
    return folder / "data"


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ablate", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(module.main)
    return end.value.code


def test_every_variant_is_a_config(ablate):
    recipe = load_config(ablate.PROJECT / "configs" / "camvid_unet_transformer.yaml", ["data.root=here"])
    seen = [
        load_config(ablate.PROJECT / "configs" / "camvid_unet_transformer.yaml", ["data.root=here", *v])
        for v in ablate.VARIANTS.values()
    ]
    assert seen[0] == recipe
    assert all(config != recipe for config in seen[1:])
    assert len({repr(config) for config in seen}) == len(ablate.VARIANTS)


def test_a_call_goes_on_where_the_last_one_stopped(ablate, tmp_path, monkeypatch, capsys):
    data, results = make_data(tmp_path), tmp_path / "results"
    commands = FakeCommands(monkeypatch, ablate, pieces=2)
    words = (data, results, "training.num_epochs=40", "--only", "layers_8", "--seeds", 0, 1)
    for number in range(4):
        assert call(ablate, monkeypatch, *words) == 75
        assert "not finished: call this script again" in capsys.readouterr().out
        assert len(json.loads((results / "summary.json").read_text())) == number
    assert call(ablate, monkeypatch, *words) == 0
    assert [kind for kind, *_ in commands.calls] == ["train", "train", "score"] * 4
    assert [name for kind, name, _ in commands.calls if kind == "score"] == [
        "recipe_seed0",
        "recipe_seed1",
        "layers_8_seed0",
        "layers_8_seed1",
    ]
    settings = commands.calls[0][2]
    held_out = Path(settings["data.val_split"]).read_text().splitlines()
    assert len(held_out) == 2 and all("0006R0_1" in line for line in held_out)
    assert (settings["seed"], settings["training.num_epochs"], settings["data.root"]) == ("0", "40", str(data))
    shown = capsys.readouterr().out
    assert "60.00 ± 0.00" in shown and "finished: " in shown
    calls = len(commands.calls)
    assert call(ablate, monkeypatch, *words) == 0 and len(commands.calls) == calls


def test_slow_and_fast_variants_are_trained_again_for_equal_time(ablate, tmp_path, monkeypatch, capsys):
    data, results = make_data(tmp_path), tmp_path / "results"
    commands = FakeCommands(monkeypatch, ablate, speeds={"layers_8": 50.0, "unet": 105.0})
    words = (data, results, "training.num_epochs=40", "--only", "layers_8", "unet", "--seeds", 3)
    assert call(ablate, monkeypatch, *words) == 0
    trained = [(name, settings["training.num_epochs"]) for kind, name, settings in commands.calls if kind == "train"]
    assert trained[0] == ("recipe_seed3", "40") and trained[-1] == ("layers_8_equal_time_seed3", "20")
    assert len(trained) == 4
    assert "layers_8_equal_time" in capsys.readouterr().out


def test_what_fails_ends_the_call_with_its_code(ablate, tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path)
    FakeCommands(monkeypatch, ablate)
    monkeypatch.setattr(
        ablate.subprocess, "run", lambda command, **_: types.SimpleNamespace(returncode=3 * ("seg.train" in command))
    )
    assert call(ablate, monkeypatch, data, tmp_path / "results") == 3
    assert call(ablate, monkeypatch, tmp_path / "missing", tmp_path / "results") == 2
    assert "missing: expected the folder of" in capsys.readouterr().err
    monkeypatch.undo()
    (tmp_path / "empty").mkdir()
    command = [sys.executable, ablate.PROJECT / "scripts" / "hold_out_sequence.py", tmp_path / "empty", "0006R0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "expected train/images" in done.stderr
