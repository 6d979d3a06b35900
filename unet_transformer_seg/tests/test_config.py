"""Configs: what is read equals what was written, and mistakes are named."""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg.config import Config, DataConfig, ModelConfig
from seg.config.reader import load_config, override_config, save_config
from seg.config.retired import IGNORED, RETIRED, warn_once
from seg.config.rules import bottleneck_width
from seg.errors import UserError

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
        model=ModelConfig(name="unet", num_classes=7),
        data=DataConfig(root="a b", value_map={0: 0, 255: 1}, palette=((1, 2, 3), (4, 5, 6))),
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
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20),
)
@settings(max_examples=50, deadline=None)
def test_any_value_survives_the_file(tmp_path_factory, rate, seed, name):
    config = Config(name=name, seed=seed)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=rate))
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    save_config(config, path)
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seed: 1\nmodel:\n  nmae: unet\n",
            "config.yaml:3: unknown key 'model.nmae'; did you mean 'model.name'?",
        ),
        (
            "model:\n  name: unett\n",
            "config.yaml:2: model.name: expected one of unet, unet_transformer, transunet, resnet_unet, "
            "plain_conv_unet, custom; found 'unett'; did you mean 'unet'?",
        ),
        ("optimizer:\n  b1: 2\n", "config.yaml:2: optimizer.b1: expected 0 to 0.9999, found 2.0"),
        ("training:\n  batch_size: 3.5\n", "training.batch_size: expected a whole number, found 3.5"),
        ("training:\n  tensorboard: 1\n", "training.tensorboard: expected true or false, found 1"),
        ("seed: true\n", "seed: expected a whole number, found True"),
        ("seed: .nan\n", "seed: expected a whole number, found nan"),
        ("optimizer:\n  learning_rate: .nan\n", "expected 1e-09 to 100, found nan"),
        ("data:\n  size: 64\n", "data.size: expected a list, found '64'"),
        ("data:\n  size: [64]\n", "data.size: expected a list of 2 values, found 1"),
        ("data:\n  size: [64, x]\n", "data.size[1]: expected a whole number, found 'x'"),
        ("model: 3\n", "config.yaml:1: expected keys of model, found '3'"),
        ("seed: 1\nseed: 2\n", "config.yaml:2: key 'seed' appears twice"),
        ("a: [\n", "not valid YAML"),
        ("seed: &a 1\nname: *a\n", "aliases"),
        ("seed: !!python/object/apply:os.system [ls]\n", "seed: expected a single value"),
        ("name: !!python/name:os.system\n", "name: cannot read"),
        ("data:\n  dataset: image_folder\n", "data.root"),
        ("training:\n  batch_size: 5\n  accumulate: 2\n", "cannot be split"),
        (
            "model:\n  transformer:\n    num_heads: 7\n",
            "num_heads 7 does not divide the bottleneck's width 1024",
        ),
        ("loss:\n  class_weighting: given\n", "loss.class_weights"),
        ("model: {deep_supervision: true, depth: 1}\n", "model.deep_supervision needs model.depth"),
        ("data:\n  augment:\n    scale: [2, 1]\n", "expected [low, high]"),
        ("optimizer: {clip_norm: .inf}\n", "config.yaml:1: optimizer.clip_norm: expected a finite number, found inf"),
        ("optimizer: {clip_norm: " + "9" * 400 + "}\n", "optimizer.clip_norm: expected a finite number, found inf"),
        ("training: {num_epochs: 2147483648}\n", "training.num_epochs: expected at most 2147483647, found 2147483648"),
        ("seed: 0x" + "f" * 9999 + "\n", "seed: expected 0 to 2147483647, found a whole number of 39996 bits"),
        ("seed: !!int\n", "seed: cannot read '' as int"),
        ("training: {tensorboard: !!bool x}\n", "training.tensorboard: cannot read 'x'"),
        ("name: !!timestamp x\n", "name: cannot read 'x'"),
        ('name: "\\UFFFFFFFF"\n', "config.yaml: not a YAML text"),
        ('name: "a\\0"\n', "name: expected at most 4096 printable characters, found 'a\\x00'"),
        ('name: "\\ud800"\n', "name: expected at most 4096 printable characters"),
        ("data: {value_map: {0: 0, 0: 1}}\n", "config.yaml:1: data.value_map[0] appears twice"),
        ("? [a]\n: 1\n", "config.yaml:1: expected the name of a setting, found a list"),
        ("data.palette: []\n", "unknown key 'data.palette'; in a file, write it below its section: data: {palette: …}"),
        ("a" * 999 + ": 1\n", "unknown key '" + "a" * 120 + "…'"),
        ("[" * 9999, "config.yaml:1: lists and mappings nested more than 16 deep"),
        ("# " + "x" * (1 << 17), "expected at most 131072 bytes, found more"),
    ],
)
def test_mistakes_are_named(write, text, message):
    with pytest.raises(UserError) as error:
        load_config(write(text))
    assert message in str(error.value)


def test_overrides_change_one_value(write):
    config = load_config(
        write("seed: 1\n"), ["training.num_epochs=5", "data.size=[32, 48]", "optimizer.learning_rate=1e-4"]
    )
    assert (config.seed, config.training.num_epochs, config.data.size) == (1, 5, (32, 48))
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


def test_bilinear_upsampling_halves_the_bottleneck():
    assert bottleneck_width(ModelConfig(upsample="transposed")) == 1024
    assert bottleneck_width(ModelConfig(upsample="bilinear")) == 512


@pytest.mark.parametrize("command", ["train", "eval", "infer", "check", "export", "bench"])
def test_help_does_not_wait_for_jax(command):
    code = f"import sys, runpy; sys.argv = ['seg.{command}', '--help']\n"
    code += f"try: runpy.run_module('seg.{command}', run_name='__main__')\n"
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
        [sys.executable, "-m", "seg.train", "--config", str(path), "training.num_epocs=3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: override") and "num_epochs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("native", "native"),
        ("0.5", 0.5),
        ("2", 2.0),
        ("1e-1", 0.1),
        ("nativ", "expected one of trained, native or a number; found 'nativ'; did you mean 'native'"),
        ("0", "expected 0.01 to 100"),
        ("true", "expected a number, found True"),
        ("[1]", "expected a single value"),
    ],
)
def test_a_setting_can_be_a_word_or_a_number(text, found, tmp_path):
    if isinstance(found, str) and " " in found:
        with pytest.raises(UserError, match=re.escape(found)):
            override_config(Config(), [f"inference.scale={text}"])
        return
    config = override_config(Config(), [f"inference.scale={text}"])
    assert config.inference.scale == found
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.fixture
def retired(monkeypatch):
    """Two retired settings: one whose other values are ignored, one whose other values are refused."""
    monkeypatch.setattr(
        "seg.config.retired.RETIRED", {"training.fast": ("false", "set FAST=1"), "data.old": ("true", "x")}
    )
    monkeypatch.setattr("seg.config.retired.IGNORED", ("training.fast",))
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
