"""Folders of FunASR's SeACo, Contextual and BiCif models: read, written and refused; hot words in their tokens."""

import dataclasses

import flax.traverse_util
import jax
import numpy as np
import pytest

from asr.config import Config
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.errors import UserError
from asr.inference.hotword_memory import list_unknown, spell_phrase
from asr.inference.hotwords import Hotword
from asr.published.funasr import funasr_pairs, load_funasr, save_funasr
from asr.published.funasr_config import read_funasr_config, read_settings
from asr.published.mapping import export_arrays
from asr.published.torch_file import read_torch_file
from asr.training.setup import build_setup
from hotword_folders import BRANCH, about, recorded_tensors, write_folder, write_settings

KINDS = ("seaco", "contextual", "bicif")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_written_again(tmp_path, kind):
    folder = write_folder(tmp_path / kind, kind)
    config, tokenizer, _, variables = load_funasr(folder)
    assert config.model.name == kind
    arrays = flax.traverse_util.flatten_dict(variables, sep="/")
    back, theirs = export_arrays(funasr_pairs(config.model), arrays), read_torch_file(folder / "model.pt").tensors
    assert back.keys() == theirs.keys() >= recorded_tensors(kind).keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
    again = tmp_path / "again"
    again.mkdir()
    save_funasr(again, config, tokenizer, None, variables)
    reread, *_, loaded = load_funasr(again)
    assert reread.model == config.model
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def drop(prefix):
    def change(tensors):
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return change


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("seaco", drop("bias_encoder.weight_hh_l1"), r"bias_encoder.weight_hh_l1: missing, expected \[64, 16\]"),
        ("seaco", drop(BRANCH), "holds no tensors seaco_decoder.*SeacoParaformer, but config.yaml says Seaco"),
        ("bicif", drop("predictor.blstm"), "holds no tensors predictor.blstm.*says BiCifParaformer"),
        ("contextual", drop("decoder.bias_output"), r"decoder.bias_output.weight: missing, expected \[16, 32, 1\]"),
        ("contextual", lambda x: x.update(recorded_tensors("bicif")), "holds tensors predictor.blstm.*says Contextual"),
    ],
)
def test_missing_and_foreign_tensors_are_refused(tmp_path, kind, change, said):
    folder = write_folder(tmp_path / kind, kind, change)
    with pytest.raises(UserError, match=said):
        load_funasr(folder)


def setting(section, **values):
    def change(content):
        content.setdefault(section, {}).update(values)
        content[section] = {key: value for key, value in content[section].items() if value is not ...}

    return change


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("seaco", setting("predictor_conf", use_cif1_cnn=True), "predictor_conf.use_cif1_cnn: expected false"),
        ("bicif", setting("predictor_conf", use_cif1_cnn=...), "found none, which FunASR takes for true"),
        ("bicif", setting("predictor_conf", upsample_times=5), "predictor_conf.upsample_times: expected 3"),
        ("seaco", setting("model_conf", bias_encoder_bid=True), "model_conf.bias_encoder_bid: expected false"),
        (
            "seaco",
            setting("model_conf", inner_dim=24),
            "model_conf.inner_dim: expected 16, the encoder's width, found 24",
        ),
        ("contextual", setting("model_conf", inner_dim=...), "model_conf.inner_dim: expected 16.*found 256"),
        ("contextual", setting("model_conf", use_decoder_embedding=True), "use_decoder_embedding: expected false"),
        ("seaco", lambda content: content.update(predictor="CifPredictorV2"), "predictor: expected CifPredictorV3"),
        ("seaco", lambda content: content.update(seaco_decoder="X"), "seaco_decoder: expected 'ParaformerSANMDecoder'"),
        (
            "seaco",
            setting("seaco_decoder_conf", wo_input_layer=False),
            "seaco_decoder_conf.wo_input_layer: expected true",
        ),
        ("seaco", setting("seaco_decoder_conf", depth=2), "seaco_decoder_conf.depth: not known here"),
        ("seaco", setting("seaco_decoder_conf", attention_heads=3), "num_heads that divide model.encoder.width 16"),
        ("bicif", setting("model_conf", inner_dim=16), "model_conf.inner_dim: not known here"),
    ],
)
def test_settings_that_would_change_the_answers_are_refused(tmp_path, kind, change, said):
    with pytest.raises(UserError, match=said):
        read_funasr_config(write_settings(tmp_path / kind, kind, change))


def test_the_settings_of_hot_words_have_ranges(tmp_path):
    folder = write_settings(tmp_path / "seaco", "seaco")
    config = read_settings(folder, ["inference.hotword_scale=0.5", "model.seaco.num_kept=7"])
    assert (config.inference.hotword_scale, config.model.seaco.num_kept) == (0.5, 7)
    for override, said in (
        ("inference.hotword_scale=2", "hotword_scale: with model.name seaco it is a share, 0 to 1, found 2"),
        ("model.vocab_size=37", "no_bias_id: expected one of the 37 tokens, found 37"),
    ):
        with pytest.raises(UserError, match=said):
            read_settings(folder, [override])


@pytest.mark.parametrize("kind", KINDS)
def test_training_them_is_refused(kind):
    config = Config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, name=kind))
    with pytest.raises(UserError, match=f"model.name: {kind} is a published model to transcribe with"):
        build_setup(config)


# Hot words in tokens.


@pytest.fixture(scope="module")
def tokenizer():
    words = {word: tuple(pieces) for word, *pieces in map(str.split, about()["seg_dict"].splitlines())}
    return Tokenizer(tuple(about()["tokens"]), "funasr", "lower", seg_dict=words)


@pytest.mark.parametrize("name", ["four", "oov", "file"])
def test_phrases_have_the_tokens_of_funasr(tokenizer, name):
    answer = about()["seaco"]["answers"][f"a_{name}"]
    phrases = about()["hotwords.txt"].splitlines() if name == "file" else answer["hotword"].split()
    assert [[i for _, i in spell_phrase(tokenizer, phrase)] for phrase in phrases] == answer["hotword_ids"][:-1]


def test_each_word_that_became_unknown_is_named(tokenizer):
    said = list_unknown(tokenizer, [Hotword("今天"), Hotword("龙井 茶龙"), Hotword("Hello it12"), Hotword("12")])
    assert said.startswith("hot words with parts that became <unk>, as the model has no tokens for them: ")
    assert said.endswith("'龙井 茶龙' ('龙', '井', '茶'), 'Hello it12' ('it12')")
    assert list_unknown(tokenizer, [Hotword("今天 hello"), Hotword("")]) == ""


def test_without_a_seg_dict_a_phrase_is_cut_as_any_text():
    characters = Tokenizer(with_special_tokens("今天ab"), "funasr")
    assert [i for _, i in spell_phrase(characters, "今天 ab")] == characters.encode("今天 ab") == [3, 4, 5, 6]
