"""Configs: what is read equals what was written, and mistakes are named."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import AugmentConfig, Config, DataConfig, EncoderConfig, FeaturesConfig, ModelConfig
from asr.config.reader import load_config, save_config
from asr.config.retired import IGNORED, RETIRED, warn_once
from asr.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_an_empty_file_gives_the_defaults(write):
    assert load_config(write("")) == Config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_of_the_project_loads_and_says_what_it_is(path):
    config = load_config(path, ["data.root=somewhere"])
    assert config.name == path.stem
    assert path.read_text().startswith("# "), "a config file begins with what it does, its command and its cost"


def test_saved_config_loads_back_equal(tmp_path):
    config = Config(
        name="x",
        model=ModelConfig(vocab_size=7, encoder=EncoderConfig(kind="conformer", num_layers=3)),
        data=DataConfig(root="a b", augment=AugmentConfig(speeds=(0.9, 1.0, 1.1), noise_snr_db=(5.0, 20.0))),
    )
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize("name", ["1e5", "-INFINITY", "+nan", "2.5E-3", "1_000"])
def test_a_name_that_looks_like_a_number_stays_a_text(tmp_path, name):
    save_config(Config(name=name), tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml").name == name


@given(
    rate=st.floats(1e-9, 100),
    seed=st.integers(0, 2**31 - 1),
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
)
@settings(max_examples=50, deadline=None)
def test_any_value_survives_the_file(tmp_path_factory, rate, seed, name):
    config = Config(name=name, seed=seed)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=rate))
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    save_config(config, path)
    assert load_config(path) == config


def test_an_encoder_that_maps_its_input_first_may_have_an_odd_one(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("features: {num_mels: 5}\nmodel: {encoder: {kind: conformer}}\n")
    assert load_config(path).features.input_dim == 35


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seed: 1\nmodel:\n  encodr: {}\n",
            "config.yaml:3: unknown key 'model.encodr'; did you mean 'model.encoder'?",
        ),
        (
            "model:\n  encoder:\n    kind: sanmm\n",
            "config.yaml:3: model.encoder.kind: expected one of sanm, conformer, conv; found 'sanmm'; "
            "did you mean 'sanm'?",
        ),
        ("optimizer:\n  b1: 2\n", "config.yaml:2: optimizer.b1: expected 0 to 0.9999, found 2.0"),
        ("training:\n  num_epochs: 3.5\n", "training.num_epochs: expected a whole number, found 3.5"),
        ("training:\n  tensorboard: 1\n", "training.tensorboard: expected true or false, found 1"),
        ("seed: true\n", "seed: expected a whole number, found True"),
        ("seed: .nan\n", "seed: expected a whole number, found nan"),
        ("optimizer:\n  learning_rate: .nan\n", "expected 1e-09 to 100, found nan"),
        ("data:\n  augment:\n    speeds: 1.1\n", "data.augment.speeds: expected a list, found '1.1'"),
        ("data: {augment: {noise_snr_db: [5]}}\n", "data.augment.noise_snr_db: expected a list of 2 values, found 1"),
        ("data: {augment: {speeds: [1, x]}}\n", "data.augment.speeds[1]: expected a number, found 'x'"),
        ("data: {augment: {speeds: [1, 3]}}\n", "data.augment.speeds[1]: expected 0.5 to 2, found 3.0"),
        ("model: 3\n", "config.yaml:1: expected keys of model, found '3'"),
        ("seed: 1\nseed: 2\n", "config.yaml:2: key 'seed' appears twice"),
        ("a: [\n", "not valid YAML"),
        ("seed: &a 1\nname: *a\n", "aliases"),
        ("seed: !!python/object/apply:os.system [ls]\n", "seed: expected a single value"),
        ("name: !!python/name:os.system\n", "name: cannot read"),
        ("seed: !!int abc\n", "config.yaml:1: seed: cannot read 'abc' as int"),
        ("seed: !!int ''\n", "config.yaml:1: seed: cannot read '' as int"),
        ("seed: !!bool maybe\n", "config.yaml:1: seed: cannot read 'maybe' as bool"),
        ("seed: !!timestamp now\n", "config.yaml:1: seed: cannot read 'now' as timestamp"),
        ("seed: 2001-99-99\n", "config.yaml:1: seed: cannot read '2001-99-99' as timestamp"),
        (f"seed: {'9' * 5000}\n", "config.yaml:1: seed: cannot read '999999"),
        (f"seed: 0x{'f' * 300}\n", "config.yaml:1: seed: expected 0 to 2147483647, found a whole number of 1200 bits"),
        (f"optimizer:\n  b1: {'9' * 400}\n", "config.yaml:2: optimizer.b1: expected 0 to 0.9999, found inf"),
        (f"name: [{'x' * 9999}]\n", "config.yaml:1: name: expected a single value, found a list"),
        (f"{'x' * 900}: 1\n", f"config.yaml:1: unknown key '{'x' * 120}…'; known keys: name"),
        ("[a, b]: 1\n", "config.yaml:1: expected the name of a setting, found a list"),
        ('"\\e[2J": 1\n', "config.yaml:1: unknown key '\\x1b[2J'; known keys: name"),
        ('data: {root: "a\\0b"}\n', "data.root: expected at most 4096 printable characters, found 'a\\x00b'"),
        ('data: {root: "a\\ud800b"}\n', "data.root: expected at most 4096 printable characters, found 'a\\ud800b'"),
        (f"model: {'[' * 17}", "config.yaml:1: lists and mappings nested more than 16 deep"),
        ("data:\n  dataset: jsonl\n", "data.root"),
        ("data: {min_seconds: 9, max_seconds: 8}\n", "data.min_seconds 9.0 is above data.max_seconds 8.0"),
        ("data: {augment: {speeds: []}}\n", "expected at least one speed"),
        ("data: {augment: {noise_snr_db: [20, 10]}}\n", "expected [low, high]"),
        ("features:\n  high_frequency_hz: 9000\n", "high_frequency_hz ≤ 8000"),
        ("features: {cmvn: file}\n", "features.cmvn_file is needed"),
        (
            "model: {encoder: {kind: conv, width: 15, num_heads: 5}, decoder: {num_heads: 3}}\n",
            "sincos needs an even model.encoder.width, found 15",
        ),
        ("tokenizer: {kind: file}\n", "tokenizer.file is needed"),
        ("model: {encoder: {num_heads: 7}}\n", "model.encoder.num_heads 7 does not divide model.encoder.width 512"),
        ("model: {decoder: {num_heads: 7}}\n", "model.decoder.num_heads 7 does not divide model.encoder.width 512"),
        ("model: {decoder: {kernel_size: 4}}\n", "model.decoder.kernel_size: expected an odd number, found 4"),
        (
            "model: {encoder: {attention: xla}, decoder: {attention_dropout: 0.1}}\n",
            "model.decoder.attention_dropout needs model.encoder.attention: explicit",
        ),
        (
            "model: {decoder: {num_layers: 0, num_memory_layers: 0, num_ffn_layers: 0}}\n",
            "expected at least one layer of any kind",
        ),
        ("model: {input_dim: 80}\n", "features.num_mels · features.lfr_m = 560"),
        ("features: {num_mels: 41, lfr_m: 1}\n", "needs an even input width, num_mels · lfr_m = 41"),
        (
            "loss: {ctc_weight: 0.3}\n",
            "loss.ctc_weight is 0.3, but the model has no CTC head",
        ),
        ("model: {ctc_head: true}\n", "nothing trains the head while loss.ctc_weight is 0: set loss.ctc_weight"),
        ("inference: {decoder: ctc}\n", "inference.decoder: ctc needs a model trained with model.ctc_head"),
    ],
)
def test_mistakes_are_named(write, text, message):
    with pytest.raises(UserError) as error:
        load_config(write(text))
    assert message in str(error.value)


def test_overrides_change_one_value(write):
    config = load_config(
        write("seed: 1\n"), ["training.num_epochs=5", "data.augment.speeds=[0.9, 1]", "optimizer.learning_rate=1e-4"]
    )
    assert (config.seed, config.training.num_epochs, config.data.augment.speeds) == (1, 5, (0.9, 1.0))
    assert config.optimizer.learning_rate == 1e-4


@pytest.mark.parametrize("override", ["training.num_epocs=3", "seed", "=3", "seed.x=1", "training.num_epochs=many"])
def test_wrong_overrides_are_named(write, override):
    with pytest.raises(UserError) as error:
        load_config(write(""), [override])
    assert override.split("=")[0] in str(error.value)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no_such"):
        load_config(tmp_path / "no_such.yaml")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="binary"):
        load_config(tmp_path / "binary.yaml")


def test_widths_and_times_follow_from_the_features():
    features = FeaturesConfig(num_mels=40, lfr_m=3, lfr_n=2, frame_shift_ms=8.0)
    assert (features.input_dim, features.output_shift_ms) == (120, 16.0)


@pytest.mark.parametrize("command", ["train", "eval", "infer", "check", "export", "bench"])
def test_help_does_not_wait_for_jax(command):
    code = f"import sys, runpy; sys.argv = ['asr.{command}', '--help']\n"
    code += f"try: runpy.run_module('asr.{command}', run_name='__main__')\n"
    code += "except SystemExit as stop: assert not stop.code\n"
    code += "assert 'jax' not in sys.modules"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
    assert time.monotonic() - start < 5  # well under a second on a quiet machine


def test_a_misspelt_key_on_the_command_line_exits_with_2(write):
    path = write("")
    done = subprocess.run(
        [sys.executable, "-m", "asr.train", "--config", str(path), "training.num_epocs=3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: override") and "num_epochs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def retired(monkeypatch):
    """Two retired settings: one whose other values are ignored, one whose other values are refused."""
    monkeypatch.setattr(
        "asr.config.retired.RETIRED", {"training.fast": ("false", "set FAST=1"), "data.old": ("true", "x")}
    )
    monkeypatch.setattr("asr.config.retired.IGNORED", ("training.fast",))
    warn_once.cache_clear()


def test_a_retired_setting_with_the_behaviour_that_is_left_opens_in_silence(write, retired, caplog):
    path = write("training: {fast: false}\ndata: {old: true}\n")
    assert load_config(path, ["training.fast=false"]) == Config()
    assert not caplog.records


def test_another_value_of_a_retired_setting_is_ignored_with_one_warning(write, retired, caplog):
    path = write("seed: 1\ntraining: {fast: true}\n")
    assert load_config(path) == load_config(path) == Config(seed=1)
    (record,) = caplog.records
    assert f"{path}:2: training.fast: true is ignored" in record.getMessage() and "set FAST=1" in record.getMessage()


@pytest.mark.parametrize("value", ["false", "[true]", "{a: 1}"])
def test_a_retired_behaviour_is_refused(write, retired, value):
    with pytest.raises(UserError, match="config.yaml:1: data.old: .* is no longer supported; x"):
        load_config(write(f"data: {{old: {value}}}\n"))
    with pytest.raises(UserError, match="override 'data.old=.*: data.old: .* is no longer supported; x"):
        load_config(write(""), [f"data.old={value}"])


def test_no_retired_setting_is_a_setting():
    for key in RETIRED:
        value = Config()
        for name in key.split(".")[:-1]:
            value = getattr(value, name)
        assert not hasattr(value, key.split(".")[-1])
    assert set(IGNORED) <= RETIRED.keys()
