"""The directory of a run: its name, what is written into it at the start, and what is refused when it is opened."""

import dataclasses
import datetime
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asr.config import Config, DataConfig, FeaturesConfig, ModelConfig, TokenizerConfig
from asr.data.cmvn import Cmvn
from asr.data.text.building import build_tokenizer
from asr.errors import UserError
from asr.record import environment, run_dir

TOKENIZER = build_tokenizer(TokenizerConfig(), ["die Straße", "中文"])
CMVN = Cmvn(np.linspace(-3, 1 / 3, 4, dtype=np.float32), np.array([0.1, 1 / 7, 3e-9, 2.5e8], np.float32))


@pytest.fixture
def config(tmp_path):
    return Config(
        name="trial-1",
        runs_dir=str(tmp_path / "below" / "runs"),
        features=FeaturesConfig(num_mels=4, lfr_m=1),
        model=ModelConfig(vocab_size=TOKENIZER.vocab_size, input_dim=4),
        data=DataConfig(root="a b"),
    )


@pytest.fixture
def run(config):
    return run_dir.create_run_dir(config, TOKENIZER, CMVN)


def test_what_a_run_starts_from_loads_back_equal(run, config):
    assert re.fullmatch(r"\d{8}_\d{6}_trial-1", run.run_id)
    loaded_config, tokenizer, cmvn = run_dir.load_run(run.path)
    assert (loaded_config, tokenizer) == (config, TOKENIZER)
    np.testing.assert_array_equal(cmvn.shift, CMVN.shift)
    np.testing.assert_array_equal(cmvn.scale, CMVN.scale)
    written = {"config.yaml", "tokenizer.json", "cmvn.txt", "environment.json", "samples"}
    assert {p.name for p in run.path.iterdir()} == written


def test_subwords_keep_their_model_beside_the_tokens(config):
    texts = ["one two three four", "five six seven eight nine"]
    pieces = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=20), texts)
    run = run_dir.create_run_dir(config, pieces, CMVN)
    assert (run.path / "bpe.model").is_file()
    assert run_dir.load_run(run.path)[1] == pieces


def test_without_normalisation_there_is_no_file_of_it(config):
    config = dataclasses.replace(config, features=dataclasses.replace(config.features, cmvn="none"))
    run = run_dir.create_run_dir(config, TOKENIZER, None)
    assert not run.cmvn_file.exists() and run_dir.load_run(run.path) == (config, TOKENIZER, None)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a b", "-x", "x" * 101, "ü", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(config, name, tmp_path):
    with pytest.raises(UserError, match=r"^name: expected .*found " + re.escape(repr(name))):
        run_dir.create_run_dir(dataclasses.replace(config, name=name), TOKENIZER, CMVN)
    assert not list(tmp_path.iterdir())


def test_runs_that_start_within_one_second_do_not_share_a_directory(config, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 1, 31, 12, 0, 0)

    monkeypatch.setattr(run_dir.datetime, "datetime", Clock)
    names = [run_dir.create_run_dir(config, TOKENIZER, CMVN).run_id for _ in range(3)]
    assert names == [f"20250131_120000_trial-1{end}" for end in ("", "_1", "_2")]


def test_more_than_a_hundred_starts_still_find_a_new_directory(tmp_path):
    made = [run_dir._make_unused(tmp_path, "x") for _ in range(103)]
    assert len(set(made)) == 103


def test_a_place_that_cannot_be_written_to_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(UserError, match=f"runs_dir: .*{re.escape(str(tmp_path / 'file'))}.*runs_dir=FOLDER"):
            run_dir.create_run_dir(dataclasses.replace(config, runs_dir=str(place)), TOKENIZER, CMVN)


def test_a_full_disk_at_the_start_is_an_error_of_the_user(config, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device", "config.yaml")

    monkeypatch.setattr(run_dir, "save_config", refuse)
    with pytest.raises(UserError, match="No space left on device"):
        run_dir.create_run_dir(config, TOKENIZER, CMVN)


@pytest.mark.parametrize("name", ["config.yaml", "tokenizer.json", "cmvn.txt"])
def test_what_is_missing_in_a_run_directory_is_named(run, name):
    (run.path / name).unlink()
    with pytest.raises(UserError, match=f"{run.run_id}: .*{name} is missing"):
        run_dir.load_run(run.path)


def test_the_command_that_resumes_can_be_pasted():
    command = run_dir.RunDir(Path("my runs/it's one")).resume_command
    assert shlex.split(command) == ["python", "-m", "asr.train", "--resume", "my runs/it's one"]


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: expected a run directory"):
        run_dir.load_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.yaml", "modle: {}"), ("tokenizer.json", "{}"), ("tokenizer.json", "\x00"), ("cmvn.txt", "<Nnet>")],
)
def test_a_damaged_file_is_named(run, name, content):
    (run.path / name).write_text(content)
    with pytest.raises(UserError, match=name):
        run_dir.load_run(run.path)


def test_opening_a_run_writes_nothing(run):
    run.samples.rmdir()
    before = run.path.stat().st_mtime_ns
    run_dir.load_run(run.path)
    assert run.path.stat().st_mtime_ns == before


def test_the_environment_says_what_the_numbers_may_depend_on(config, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setattr(sys, "argv", ["asr.train", "--config", "c.yaml"])
    noted = json.loads(run_dir.create_run_dir(config, TOKENIZER, CMVN).environment_file.read_text())
    assert set(noted) == {"time", "command", "python", "platform", "cores", "devices", "flags", "packages", "git"}
    assert noted["command"] == [sys.executable, "asr.train", "--config", "c.yaml"]
    assert datetime.datetime.fromisoformat(noted["time"]).tzinfo is not None
    assert noted["devices"] and noted["devices"][0].startswith("cpu")
    assert noted["packages"]["jax"].count(".") >= 2 and noted["packages"]["paraformer-asr"]
    assert "XLA_FLAGS" in noted["flags"]
    assert 1 <= noted["cores"] <= os.cpu_count()


def test_a_package_that_is_not_installed_is_noted_as_none():
    assert environment._version("no-such-package-anywhere") is None


def git(folder, *command):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", folder, *identity, *command], check=True, capture_output=True)


def test_the_commit_is_that_of_the_checkout_that_the_file_belongs_to(tmp_path):
    source = tmp_path / "source.py"
    source.write_text("a")
    assert environment.describe_commit(source) is None
    git(tmp_path, "init")
    assert environment.describe_commit(source) is None
    git(tmp_path, "add", "source.py")
    git(tmp_path, "commit", "-m", "one")
    found = environment.describe_commit(source)
    assert re.fullmatch(r"[0-9a-f]{40}", found["commit"]) and found["changed_files"] == 0
    source.write_text("b")
    assert environment.describe_commit(source) == found | {"changed_files": 1}
    (tmp_path / "installed.py").write_text("a file below the checkout that is no part of it")
    assert environment.describe_commit(tmp_path / "installed.py") is None
