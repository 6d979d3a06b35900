"""The recipes of README and docs/published_models.md: on every kind of model each leads to a run that can begin."""

import argparse
import functools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from asr.api import load_initial
from asr.config import Config, DecoderConfig, EncoderConfig, FeaturesConfig, LossConfig, ModelConfig, PredictorConfig
from asr.config.reader import load_start_config
from asr.data.frontend import Cmvn
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.errors import UserError
from asr.inference.loading import load_parts
from asr.inference.model_folder import save_model_folder
from asr.models import abstract_variables
from asr.published.funasr import save_funasr
from asr.train import read_config
from asr.training.setup import build_setup

PROJECT = Path(__file__).parents[1]
README = "".join((PROJECT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/published_models.md"))
RECIPES = {name: text for text, name in re.findall(r"```yaml\n(# (\w+)\.yaml.*?)```", README, re.DOTALL)}
COMMANDS = re.findall(r"^(?:python -m asr\.|asr )train (.*?)(?:\s+#.*)?$", README, re.MULTILINE)
TEXTS = ["good morning", "a good day", "good day to you", "more day"]
OTHER_LETTERS = [*"abcdefghijklmnopqrstuvwxyz", "▁"]


def config_of(kind, ctc, **features):
    encoder = EncoderConfig(kind=kind, num_layers=1, width=8, num_heads=2, ffn_width=8, kernel_size=3)
    features = FeaturesConfig(num_mels=4, lfr_m=2, lfr_n=2, **features)
    decoder = DecoderConfig(num_layers=1, num_heads=2, ffn_width=8, kernel_size=3)
    return Config(
        features=features,
        loss=LossConfig(ctc_weight=0.3 if ctc else 0.0),
        model=ModelConfig(ctc_head=bool(ctc), encoder=encoder, decoder=decoder, predictor=PredictorConfig()),
    )


@functools.cache
def filled(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract_variables(model))


def with_sizes(config, tokenizer):
    sizes = {"vocab_size": tokenizer.vocab_size, "input_dim": config.features.input_dim}
    return config.__class__(**{**vars(config), "model": ModelConfig(**{**vars(config.model), **sizes})})


def write_own(folder, kind, ctc):
    """A model of this package, with letters."""
    tokenizer = Tokenizer(with_special_tokens(OTHER_LETTERS), "characters", "lower")
    config = with_sizes(config_of(kind, ctc), tokenizer)
    cmvn = Cmvn(np.zeros(8, np.float32), np.ones(8, np.float32)) if ctc else None
    if cmvn is None:
        config = with_sizes(config_of(kind, ctc, cmvn="none"), tokenizer)
    save_model_folder(folder, config, tokenizer, cmvn, filled(config.model))


def write_converted(folder, ctc, tokens, seg_dict):
    """A model of FunASR, converted."""
    tokenizer = Tokenizer(with_special_tokens(tokens), "funasr", "keep", seg_dict=seg_dict)
    config = with_sizes(config_of("sanm", ctc), tokenizer)
    published = folder.parent / "funasr"
    published.mkdir()
    cmvn = Cmvn(np.zeros(8, np.float32), np.ones(8, np.float32))
    save_funasr(published, config, tokenizer, cmvn, filled(config.model))
    config, *parts = load_parts(published)
    save_model_folder(folder, config, *parts)


UPPER, LOWER = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], [*"abcdefghijklmnopqrstuvwxyz"]
MODELS = {
    f"{kind}{' with ctc' * ctc}": (write_own, kind, ctc) for kind in ("sanm", "conformer", "conv") for ctc in (0, 1)
}
MODELS |= {
    f"converted {name}{' with ctc' * ctc}": (write_converted, bool(ctc), tokens, seg_dict)
    for name, tokens, seg_dict in (
        ("upper-case", UPPER, {}),
        ("lower-case", LOWER, {}),
        (
            "words",
            ["good", "mor@@", "ning", *LOWER],
            {"good": ("good",), "morning": ("mor@@", "ning"), "a": ("a",)} | {letter: (letter,) for letter in LOWER},
        ),
    )
    for ctc in (0, 1)
}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in, with sound and manifests in my_data, where the README's commands are typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("asr.inference.model_folder.export_program", lambda *_: b"")
    data = tmp_path / "my_data"
    (data / "sounds").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(len(TEXTS)):
        soundfile.write(data / f"sounds/{number}.wav", rng.normal(0, 0.1, 16000 + 900 * number), 16000)
    lines = [json.dumps({"audio_filepath": f"sounds/{n}.wav", "text": text}) for n, text in enumerate(TEXTS)]
    for split in ("train", "val", "test"):
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    for name, text in RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def begin(*overrides, config, init=None):
    """Return the setup of a run as `asr.train` builds it."""
    given = argparse.Namespace(config=Path(config), init=init, resume=None, overrides=list(overrides))
    config = read_config(given)
    return build_setup(config, initial=load_initial(config.init) if config.init else None)


def test_the_recipes_and_their_commands_are_those_of_the_readme():
    assert set(RECIPES) == {"my_config", "tune"}
    assert "--config my_config.yaml" in COMMANDS and "--config tune.yaml --init model_folder" in COMMANDS


@pytest.mark.parametrize("name", MODELS)
def test_fine_tuning_begins_on_every_kind_of_model(desk, name):
    write, *arguments = MODELS[name]
    write(desk / "model_folder", *arguments)
    setup = begin(config="tune.yaml", init="model_folder")
    assert setup.config.model.ctc_head == name.endswith("with ctc") == (setup.config.loss.ctc_weight > 0)
    assert setup.config.loss.ctc_normaliser == ("utterances" if name.startswith("converted") else "tokens")
    taken, *others = setup.warm_start.lines
    number, total = re.search(r"(\d+) of (\d+) arrays", taken).groups()
    assert number == total and not others  # with its own vocabulary, nothing is new


def test_own_data_in_five_lines_begin(desk):
    setup = begin("training.num_epochs=1", config="my_config.yaml")
    assert setup.config.model.encoder.kind == "conv" and setup.num_steps >= 1


# Which of the two settings of a CTC head decides.


@pytest.mark.parametrize(
    ("ctc", "stated", "head", "weight"),
    [
        (True, [], True, 0.3),
        (True, ["loss.ctc_weight=0.5"], True, 0.5),
        (True, ["loss.ctc_weight=0"], False, 0.0),
        (True, ["model.ctc_head=false"], False, 0.0),
        (True, ["loss.label_smoothing=0"], True, 0.3),
        (True, ["model.ctc_head=true"], True, 0.3),
        (False, [], False, 0.0),
        (False, ["loss.ctc_weight=0.2"], True, 0.2),
        (False, ["model.ctc_head=true", "loss.ctc_weight=0.2"], True, 0.2),
        (False, ["model.ctc_head=true"], None, "set loss.ctc_weight (0.3 is usual), or model.ctc_head: false"),
        (
            True,
            ["model.ctc_head=false", "loss.ctc_weight=0.2"],
            None,
            "set model.ctc_head: true, or loss.ctc_weight: 0",
        ),
    ],
)
@pytest.mark.parametrize("where", ["file", "command line"])
def test_what_is_stated_of_a_ctc_head_counts_and_the_rest_follows(desk, ctc, stated, head, weight, where):
    write_own(desk / "model_folder", "conv", ctc)
    text = RECIPES["tune"]
    if where == "file":
        for section in ("model", "loss"):
            values = [
                override.split(".", 1)[1].replace("=", ": ") for override in stated if override.startswith(section)
            ]
            text += f"{section}: {{{', '.join(values)}}}\n" if values else ""
    (desk / "tune.yaml").write_text(text, encoding="utf-8")
    overrides = ['init="model_folder"', *(stated if where != "file" else [])]
    if head is None:
        with pytest.raises(UserError) as error:
            load_start_config("tune.yaml", overrides)
        assert weight in str(error.value)
        return
    config = load_start_config("tune.yaml", overrides)
    assert (config.model.ctc_head, config.loss.ctc_weight) == (head, weight)


def test_a_folder_of_funasr_says_how_it_becomes_a_model_folder(desk):
    tokenizer = Tokenizer(with_special_tokens(LOWER), "funasr", "keep")
    config = with_sizes(config_of("sanm", False), tokenizer)
    (desk / "funasr").mkdir()
    save_funasr(desk / "funasr", config, tokenizer, None, filled(config.model))
    with pytest.raises(UserError, match="python -m asr.convert --from funasr FOLDER --out MODEL_FOLDER"):
        load_start_config("tune.yaml", ["init=funasr"])
