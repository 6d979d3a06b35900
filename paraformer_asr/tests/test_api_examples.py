"""The examples of docs/api.md run as they are printed, and a run with parts from outside is recognised as such."""

import contextlib
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

import asr
from asr import infer
from asr.cli import run_command
from asr.config import DecoderConfig, EncoderConfig, FeaturesConfig
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.inference.model_folder import save_model_folder
from asr.models import abstract_variables

TEXT = (Path(__file__).parents[1] / "docs/api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
TOY = """
name: toy
features: {num_mels: 8, lfr_m: 2, lfr_n: 2}
model:
  sampling_ratio: 0
  encoder: {kind: conv, num_layers: 1, width: 8, num_heads: 2, ffn_width: 8, kernel_size: 3, dropout: 0}
  decoder: {num_layers: 1, num_ffn_layers: 0, num_heads: 2, ffn_width: 8, kernel_size: 3, dropout: 0}
optimizer: {schedule: constant, warmup_fraction: 0}
data: {num_buckets: 1, toy: {num_letters: 4, max_words: 1, max_word_letters: 3}}
training: {batch_seconds: 10, num_sample_pictures: 0}
"""
"""In place of the packaged config of this name, whose model takes longer. With a constant rate a run that is resumed
for more epochs has the program of the one before."""

TOKENIZER = Tokenizer(with_special_tokens([*"abc", "▁"]), "characters", "lower")


def write_model_folder(folder):
    """Write a tiny model with random weights."""
    encoder = EncoderConfig(num_layers=1, width=8, num_heads=2, ffn_width=8, kernel_size=3)
    decoder = DecoderConfig(num_layers=1, num_heads=2, ffn_width=8, kernel_size=3)
    features = FeaturesConfig(num_mels=8, lfr_m=2, lfr_n=2, cmvn="none")
    model = asr.ModelConfig(vocab_size=TOKENIZER.vocab_size, input_dim=16, encoder=encoder, decoder=decoder)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract_variables(model))
    save_model_folder(folder, asr.Config(features=features, model=model), TOKENIZER, None, weights)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Run the examples in order in one folder; return their names, and the folder."""
    folder, names = tmp_path_factory.mktemp("api"), {}
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("asr.inference.model_folder.export_program", lambda *_: b"")
        write_model_folder(Path("model_folder"))
        Path("toy").write_text(TOY)
        soundfile.write("talk.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
        for number, example in enumerate(EXAMPLES):
            exec(compile(example, f"docs/api.md, example {number}", "exec"), names)
        yield names, folder


def test_the_examples_run_and_leave_what_they_say(page):
    names, folder = page
    assert (folder / "talk.srt").exists() and names["first"].duration_s == 2 * names["second"].duration_s == 1.0
    losses = names["losses"].values
    assert len(losses) > 1 and all(np.isfinite(losses))
    assert names["run"].finished and names["hypotheses"].logits_buv.shape == (1, 10, 20)
    assert names["errors"].rate == 0.5 and len(names["samples"])


def test_the_page_lists_the_names_of_the_package():
    table = TEXT[TEXT.index("## All names") :]
    listed = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(asr.__all__)


def test_parts_from_outside_are_written_down_and_needed_again(page):
    names, _ = page
    path = names["run"].path
    config = asr.load_config(path / "config.yaml")
    assert (config.model.name, config.loss.name, config.data.dataset) == ("custom",) * 3
    assert json.loads((path / "metrics.json").read_text())[-1]["length_ratio"] >= 0
    with pytest.raises(asr.UserError, match=r"model.name: custom.*asr\.load\(folder, model=\.\.\.\)"):
        asr.load(path)
    parts = {"train_set": names["Tones"](0), "val_set": names["Tones"](100)}
    parts |= {"model": names["WithPrenet"], "loss": names["focal_loss"]}
    for missing, message in [
        ("model", "model.name: custom.*model=..."),
        ("loss", "loss.name: custom.*loss=..."),
        ("val_set", "train_set and val_set belong together"),
    ]:
        rest = {name: part for name, part in parts.items() if name != missing}
        with pytest.raises(asr.UserError, match=message):
            asr.train(resume=path, **rest)
    with pytest.raises(asr.UserError, match="data.dataset: custom.*train_set=..."):
        asr.train(resume=path, model=parts["model"], loss=parts["loss"])
    with pytest.raises(asr.UserError, match="added"):
        asr.train(resume=path, **parts | {"train_set": names["Tones"](5)})
    assert asr.train(resume=path, **parts).finished
    again = f"To train on: asr.train(resume={str(path)!r}, model=…, loss=…, train_set=…, val_set=…)"
    assert again in (path / "train.log").read_text()


def test_a_loss_from_outside_cannot_join_a_run_that_began_without_it(page):
    names, folder = page
    plain = min((folder / "runs").iterdir())
    with pytest.raises(asr.UserError, match="loss.name paraformer → custom"):
        asr.train(resume=plain, loss=names["focal_loss"])


def test_a_model_from_outside_is_refused_where_the_folder_has_its_own(page):
    names, _ = page
    with pytest.raises(asr.UserError, match="model_folder: its model is paraformer.*leave model=... out"):
        asr.load("model_folder", model=names["WithPrenet"])


def test_a_module_works_as_its_class_does(page):
    names, _ = page
    transcriber = names["transcriber"]
    loaded = asr.load(names["run"].path, model=names["WithPrenet"](transcriber.config.model))
    sound = names["Tones"](0)[0].wave
    assert loaded.transcribe(sound, 16000) == transcriber.transcribe(sound, 16000)


def test_a_model_from_outside_is_saved_and_opened_again(page):
    names, folder = page
    exported = asr.load(folder / "exported", model=names["WithPrenet"])
    sound = names["Tones"](0)[0].wave
    assert exported.transcribe(sound, 16000) == names["transcriber"].transcribe(sound, 16000)
    with pytest.raises(asr.UserError, match="model.name: custom"):
        asr.load(folder / "exported")


def test_commands_refuse_a_run_with_parts_from_outside(page, monkeypatch, capsys):
    names, _ = page
    monkeypatch.setattr(sys, "argv", ["infer", "--run", str(names["run"].path), "talk.wav"])
    with pytest.raises(SystemExit) as end:
        run_command(infer.main)
    assert end.value.code == 2 and "model.name: custom" in capsys.readouterr().err
