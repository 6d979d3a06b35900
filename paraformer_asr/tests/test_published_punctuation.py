"""Punctuation models as FunASR publishes them: read, refused by name, and written again."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import asr
from asr import convert
from asr.cli import run_command
from asr.config.punctuation import PunctuationConfig
from asr.errors import UserError
from asr.inference.punctuation import load_punctuator
from asr.published.funasr_punctuation import array_shapes, load_funasr_punctuation, save_funasr_punctuation
from asr.published.funasr_punctuation_config import make_punctuation_config, read_punctuation_config
from asr.published.kinds import kind_of
from asr.published.torch_file import read_torch_file
from asr.published.torch_writer import write_torch_file
from recorded_punctuation import ANSWERS, write_folder

KINDS = ("offline", "streaming")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_read_and_written_without_a_change(tmp_path, kind):
    folder = write_folder(tmp_path / "published", kind)
    assert kind_of(folder) == "punctuation"
    config, words, variables = load_funasr_punctuation(folder)
    assert (config.streaming, config.encoder.causal) == (kind == "streaming", kind == "streaming")
    assert config.encoder.num_layers == 3 and config.vocab_size == len(words) == 70
    (tmp_path / "written").mkdir()
    save_funasr_punctuation(tmp_path / "written", config, words, variables)
    assert load_funasr_punctuation(tmp_path / "written")[:2] == (config, words)
    before, after = (read_torch_file(tmp_path / name / "model.pt").tensors for name in ("published", "written"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_are_the_inverse_of_each_other(kind):
    path, content = Path("config.yaml"), ANSWERS[kind]["config"]
    config = read_punctuation_config(path, content)
    written = make_punctuation_config(config)
    assert read_punctuation_config(path, written) == config
    for section in ("model_conf", "encoder_conf"):
        for key, value in written[section].items():
            assert content[section].get(key, value) == value, key


def test_the_published_sizes():
    content = {"model": "CTTransformer", "encoder": "SANMEncoder", "tokenizer": "CharTokenizer"}
    content["model_conf"] = {"embed_unit": 256, "att_unit": 256, "punc_list": ["<unk>", "_", "，", "。", "？", "、"]}
    content["encoder_conf"] = {"input_size": 256, "output_size": 256, "attention_heads": 8, "linear_units": 1024}
    content["encoder_conf"] |= {"num_blocks": 4, "kernel_size": 11, "sanm_shfit": 0, "input_layer": "pe"}
    config = read_punctuation_config(Path("config.yaml"), content)
    assert config == PunctuationConfig(encoder=config.encoder) and config.encoder.num_heads == 8
    for blocks, tensors, millions in ((4, 57, 72.99), (3, 44, 72.2)):
        encoder = dataclasses.replace(config.encoder, num_layers=blocks)
        shapes = array_shapes(dataclasses.replace(config, vocab_size=272727, encoder=encoder))
        assert len(shapes) == tensors
        assert round(sum(map(math.prod, shapes.values())) / 1e6, 2) == millions


def changed(section, key, value, kind="offline"):
    content = json.loads(json.dumps(ANSWERS[kind]["config"]))
    (content[section] if section else content)[key] = value
    return content


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("", "model", "Paraformer", "model: expected CTTransformer or CTTransformerStreaming, found 'Paraformer'"),
        ("", "encoder", "SANMVadEncoder", "encoder: CTTransformer has a SANMEncoder"),
        ("", "tokenizer", "Other", "tokenizer: expected 'CharTokenizer'"),
        ("", "jieba_usr_dict", "words", "jieba_usr_dict: not known here; it might change the signs"),
        ("model_conf", "embed_unit", "16", "model_conf.embed_unit: expected a whole number"),
        ("model_conf", "embed_unit", 1 << 40, "model_conf.embed_unit: expected a whole number from 2 to 4096"),
        ("model_conf", "embed_unit", 18, "encoder_conf.input_size: expected 18 as elsewhere"),
        ("model_conf", "att_unit", 32, "model_conf.att_unit: expected 16 as elsewhere"),
        ("model_conf", "punc_list", "，", "punc_list: expected a list of signs"),
        ("model_conf", "punc_list", ["，", "。"], "punc_list: expected different signs, _ among them"),
        ("model_conf", "punc_list", ["_", "\x1b"], "punc_list: expected a list of signs"),
        ("model_conf", "sentence_end_id", 6, "sentence_end_id: expected a class of punc_list"),
        ("encoder_conf", "attention_heads", 3, "attention_heads 3 does not divide output_size 16"),
        ("encoder_conf", "kernel_size", 10, "kernel_size: expected an odd number"),
        ("encoder_conf", "sanm_shfit", 2, "encoder_conf.sanm_shfit: expected 0 or 5, half of the kernel, found 2"),
        ("encoder_conf", "input_layer", "conv2d", "encoder_conf.input_layer: expected 'pe'"),
        ("encoder_conf", "stochastic_depth", 1, "encoder_conf.stochastic_depth: not known here"),
    ],
)
def test_a_setting_that_would_change_the_signs_is_refused_by_name(section, key, value, message):
    with pytest.raises(UserError, match=f"config.yaml: .*{message}"):
        read_punctuation_config(Path("config.yaml"), changed(section, key, value))


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    folder = write_folder(tmp_path / "model")
    words = ANSWERS["offline"]["words"]
    (folder / "tokens.json").write_text(json.dumps(words[:-2] + ["<unk>"]))
    with pytest.raises(UserError, match=r"tokens.json: 69 words, but model.pt was trained with 70 \(embed.weight\)"):
        load_punctuator(folder)
    (folder / "tokens.json").write_text(json.dumps(words[:-1] + ["x"]))
    with pytest.raises(UserError, match="tokens.json: expected the word <unk>"):
        load_punctuator(folder)
    (folder / "tokens.json").write_text(json.dumps(words))
    tensors = dict(read_torch_file(folder / "model.pt").tensors)
    tensors["embed.weight"] = np.full_like(tensors["embed.weight"], np.nan)
    write_torch_file(folder / "model.pt", tensors)
    with pytest.raises(UserError, match="weights are NaN or infinite in embed.weight"):
        load_punctuator(folder)
    del tensors["decoder.bias"]
    write_torch_file(folder / "model.pt", tensors)
    with pytest.raises(UserError, match=r"decoder.bias: missing, expected \[6\]"):
        load_punctuator(folder)


def test_signs_in_ascii_work_like_the_wide_ones(tmp_path):
    folder = write_folder(tmp_path / "model", punc_list=["<unk>", "_", ",", ".", "?", "、"])
    wide = load_punctuator(write_folder(tmp_path / "wide"))
    text = "因为今天下雨所以我们不能出门了但是可以在家看电影 hello world please"
    assert asr.load(folder).punctuate(text) == wide.punctuate(text)


def test_the_mode_is_the_one_setting(tmp_path):
    folder = write_folder(tmp_path / "model")
    assert asr.load(folder, overrides=["mode=exact"]).config.mode == "exact"
    with pytest.raises(UserError, match="mode: expected one of natural, exact; found 'fast'"):
        asr.load(folder, overrides=["mode=fast"])
    with pytest.raises(UserError, match="a punctuation model has one setting, mode=natural or exact"):
        asr.load(folder, overrides=["vocab_size=3"])
    with pytest.raises(UserError, match="leave vad, punct and model out"):
        asr.load(folder, punct=folder)


def test_the_command_writes_a_folder_of_funasr(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / "model")
    command = ["convert", "--to", "funasr", str(folder), "--out", str(tmp_path / "out")]
    for arguments, code in ((command, 0), (command, 2), ([*command, "--force"], 0), ([*command, "mode=exact"], 2)):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            run_command(convert.main)
        assert end.value.code == code, capsys.readouterr().err
    content = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert content["model"] == "CTTransformer" and content["model_conf"]["punc_list"][2] == "，"
    assert asr.load(tmp_path / "out").punctuate("你好") == asr.load(folder).punctuate("你好")


def test_a_mistake_is_answered_without_jax():
    script = "import asr.published.funasr_punctuation_config, sys; assert not {'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
