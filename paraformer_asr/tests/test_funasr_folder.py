"""Which files a FunASR model folder consists of: names that it states, usual names, and folders of another kind."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from asr.config import Config, TokenizerConfig
from asr.data.text.building import build_tokenizer, choose_tokenizer
from asr.errors import UserError
from asr.funasr_folder import is_funasr_folder
from asr.inference.loading import load_parts
from asr.published.funasr import load_funasr
from asr.published.funasr_config import open_funasr_folder, read_settings

RECORDED = Path(__file__).parent / "recorded" / "funasr_tiny"
NAMES = {"model.pt": "weights/best.pt", "config.yaml": "conf/net.yaml", "tokens.json": "lang/list.txt"}
NAMES |= {"seg_dict": "lang/words", "am.mvn": "norm/global.mvn"}


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(RECORDED, tmp_path / "copy"))


def edit_config(folder, section, **values):
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content[section] = content.get(section, {}) | values
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def edit_metas(folder, change):
    content = json.loads((folder / "configuration.json").read_text())
    change(content["file_path_metas"])
    (folder / "configuration.json").write_text(json.dumps(content))


def refusal(folder):
    with pytest.raises(UserError) as error:
        load_parts(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(one, other):
    for a, b in zip(one[3]["params"]["decoder"].values(), other[3]["params"]["decoder"].values(), strict=True):
        np.testing.assert_equal(a, b)
    assert one[1] == other[1]
    np.testing.assert_array_equal(one[2].shift, other[2].shift)
    assert one[0].model == other[0].model


# Names.


def test_every_file_may_have_another_name_and_lie_deeper(copy):
    expected = load_parts(copy)
    tokens = json.loads((copy / "tokens.json").read_text())
    (copy / "tokens.json").write_text("\n".join(tokens) + "\n")
    for old, new in NAMES.items():
        (copy / new).parent.mkdir(exist_ok=True)
        (copy / old).rename(copy / new)

    def rename(metas):
        metas |= {"init_param": NAMES["model.pt"], "config": NAMES["config.yaml"]}
        metas["tokenizer_conf"] = {"token_list": NAMES["tokens.json"], "seg_dict_file": NAMES["seg_dict"]}
        metas["frontend_conf"] = {"cmvn_file": NAMES["am.mvn"]}

    edit_metas(copy, rename)
    assert is_funasr_folder(copy)
    same(load_parts(copy), expected)

    def respell(metas):
        metas["tokenizer_conf"]["seg_dict"] = metas["tokenizer_conf"].pop("seg_dict_file")

    edit_metas(copy, respell)
    same(load_parts(copy), expected)


def test_the_config_names_files_too(copy):
    (copy / "am.mvn").rename(copy / "global.mvn")
    (copy / "seg_dict").rename(copy / "words")
    edit_config(copy, "frontend_conf", cmvn_file="global.mvn")
    edit_config(copy, "tokenizer_conf", seg_dict="words")
    for there in ("configuration.json that names neither", "none"):
        if there == "none":
            (copy / "configuration.json").unlink()
        else:
            edit_metas(copy, lambda metas: (metas.pop("frontend_conf"), metas["tokenizer_conf"].pop("seg_dict_file")))
        same(load_parts(copy), load_parts(RECORDED))


def test_what_configuration_json_names_comes_before_what_the_config_does(copy):
    """A config that FunASR's training wrote has the paths of the machine that it ran on."""
    edit_config(copy, "frontend_conf", cmvn_file="/home/somebody/am.mvn")
    same(load_parts(copy), load_parts(RECORDED))
    (copy / "configuration.json").unlink()  # then the usual name does
    same(load_parts(copy), load_parts(RECORDED))


@pytest.mark.parametrize("name", ["../am.mvn", "/etc/hostname", "norm/../../am.mvn"])
@pytest.mark.parametrize("where", ["configuration.json", "config.yaml"])
def test_a_name_that_leads_out_of_the_folder_is_refused_and_the_advice_works(copy, name, where):
    shutil.copy(RECORDED / "am.mvn", copy.parent / "am.mvn")
    if where == "config.yaml":
        edit_metas(copy, lambda metas: metas.pop("frontend_conf"))
        edit_config(copy, "frontend_conf", cmvn_file=name)
    else:
        edit_metas(copy, lambda metas: metas["frontend_conf"].update(cmvn_file=name))
    assert refusal(copy) == (
        f"{copy / where}: frontend_conf.cmvn_file: names {name!r}, which is outside of the folder; copy that file into "
        "the folder and write its name there"
    )
    if where == "config.yaml":
        edit_config(copy, "frontend_conf", cmvn_file="am.mvn")
        assert load_parts(copy)[2] is not None


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("init_param", "init_param"),
        ("config", "config"),
        ("tokenizer_conf/token_list", "tokenizer_conf.token_list"),
        ("tokenizer_conf/seg_dict_file", "tokenizer_conf.seg_dict_file"),
        ("frontend_conf/cmvn_file", "frontend_conf.cmvn_file"),
    ],
)
@pytest.mark.parametrize("value", ["gone", 3, ["am.mvn"], ""])
def test_a_named_file_that_is_missing_or_no_name_is_refused(copy, key, said, value):
    def change(metas):
        *sections, name = key.split("/")
        for section in sections:
            metas = metas[section]
        metas[name] = value

    edit_metas(copy, change)
    message = refusal(copy)
    expected = f"{copy / 'gone'}: missing, but configuration.json names it ({said})"
    other = f"{copy / 'configuration.json'}: {said}: expected the name of a file, found {value!r}"
    assert message.startswith(expected if value == "gone" else other)


def test_a_file_of_a_kind_that_is_not_read_is_refused(copy):
    edit_metas(copy, lambda metas: metas.update(lm_file="lm.pt"))
    assert refusal(copy) == (
        f"{copy / 'configuration.json'}: lm_file: names 'lm.pt', a kind of file that is not read here"
    )


@pytest.mark.parametrize("content", ["{", "[" * 100_000, '{"file_path_metas": ["am.mvn"]}'])
def test_a_damaged_configuration_json_is_refused(copy, content):
    (copy / "configuration.json").write_text(content)
    assert refusal(copy).startswith(f"{copy / 'configuration.json'}: ")


def test_a_configuration_json_of_other_things_leaves_the_usual_names(copy):
    (copy / "configuration.json").write_text('{"framework": "pytorch"}')
    same(load_parts(copy), load_parts(RECORDED))


# What nothing names.


def test_a_normalisation_that_nothing_names_is_said_and_the_advice_works(copy, caplog):
    edit_metas(copy, lambda metas: metas.pop("frontend_conf"))
    assert load_funasr(copy)[2] is None
    assert "am.mvn may be the normalisation of the features, but nothing names it" in caplog.text
    assert f"set frontend_conf.cmvn_file: am.mvn in {copy / 'config.yaml'}" in caplog.text
    caplog.clear()
    edit_config(copy, "frontend_conf", cmvn_file="am.mvn")
    assert load_funasr(copy)[2] is not None
    assert not caplog.text


def test_of_two_normalisations_the_one_that_is_taken_is_said(copy, caplog):
    shutil.copy(copy / "am.mvn", copy / "global_cmvn")
    load_funasr(copy)
    assert not caplog.text  # named
    (copy / "configuration.json").unlink()
    assert load_funasr(copy)[2] is not None
    assert "the normalisation is am.mvn; global_cmvn is not used" in caplog.text
    caplog.clear()
    (copy / "am.mvn").rename(copy / "x.mvn")
    assert load_funasr(copy)[2] is None
    assert "global_cmvn, x.mvn may be the normalisation" in caplog.text


def test_words_that_nothing_names_are_said(copy, caplog):
    edit_metas(copy, lambda metas: metas["tokenizer_conf"].pop("seg_dict_file"))
    assert not load_funasr(copy)[1].seg_dict
    assert "nothing names seg_dict, so it is not used" in caplog.text


# Folders of another kind.


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["model.pt.best", "model.pt.ep10"], "checkpoints of FunASR's training (model.pt.best, model.pt.ep10): copy"),
        (["other.onnx"], "by its other.onnx it is an ONNX export: copy config.yaml, tokens.json and am.mvn"),
        (["model.torchscript"], "a TorchScript export"),
        (["decoding.yaml", "model.pb"], "before FunASR 1.0: download the model again in revision v2.0.4 or later"),
        (["model.pb"], "before FunASR 1.0"),
        (["saved_model.pb"], "a model of TensorFlow"),
        (["pytorch_model.bin"], "a model of Hugging Face's transformers"),
        (["model.tar.gz"], "an archive: unpack it"),
    ],
    ids=str,
)
@pytest.mark.parametrize("named", [True, False])
def test_a_folder_without_weights_says_what_it_is(copy, files, said, named):
    (copy / "model.pt").rename(copy / files[0])
    for name in files[1:]:
        (copy / name).touch()
    if not named:
        (copy / "configuration.json").unlink()
    message = refusal(copy)
    assert said in message
    assert message.startswith(
        f"{copy / 'model.pt'}: missing, but" if named else f"{copy}: expected a model folder of FunASR"
    )


def test_the_advice_about_checkpoints_works(copy):
    (copy / "model.pt").rename(copy / "model.pt.avg10")
    assert "(model.pt.avg10): copy the one that you want to model.pt" in refusal(copy)
    shutil.copy(copy / "model.pt.avg10", copy / "model.pt")
    load_parts(copy)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("UniASR", "UniASR"),
    ],
)
def test_another_model_of_the_family_is_called_by_its_name(copy, name, said):
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("model: Paraformer", f"model: {name}"))
    message = refusal(copy)
    assert message.startswith(f"{copy / 'config.yaml'}: model: {name} is {said}")
    assert "iic/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-pytorch on ModelScope" in message


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "model.zip").touch()
    for path, said in (
        (tmp_path / "model.zip", "found a file: name the folder"),
        (tmp_path / "x", "no such folder; models are not downloaded here"),
    ):
        with pytest.raises(UserError, match=said):
            open_funasr_folder(path)


@pytest.mark.parametrize("read", [open_funasr_folder, read_settings])
def test_what_is_no_model_is_told_what_one_is(tmp_path, read):
    (tmp_path / "model_quant.onnx").touch()
    with pytest.raises(UserError, match=r"no config.yaml; by its model_quant.onnx it is an ONNX export"):
        read(tmp_path)
    with pytest.raises(UserError, match="paraformer-zh: no such folder; models are not downloaded here"):
        read(tmp_path / "paraformer-zh")


def test_a_tokenizer_is_read_from_a_folder_with_other_names(copy):
    expected = load_parts(copy)[1]
    (copy / "lang").mkdir()
    (copy / "tokens.json").rename(copy / "lang" / "list.json")
    (copy / "seg_dict").rename(copy / "lang" / "words")
    edit_metas(copy, lambda m: m.update(tokenizer_conf={"token_list": "lang/list.json", "seg_dict_file": "lang/words"}))
    config = TokenizerConfig(kind="funasr", file=str(copy), text_case=expected.text_case)
    assert build_tokenizer(config, []) == expected
    (copy / "configuration.json").unlink()
    edit_config(copy, "tokenizer_conf", token_list="lang/list.json", seg_dict="lang/words")
    assert build_tokenizer(config, []) == expected


def test_words_that_nothing_names_are_told_whatever_they_are_called(copy, caplog):
    (copy / "seg_dict").rename(copy / "seg_dict.txt")
    edit_metas(copy, lambda metas: metas["tokenizer_conf"].pop("seg_dict_file"))
    config = TokenizerConfig(kind="funasr", file=str(copy), text_case="lower")
    assert not build_tokenizer(config, []).seg_dict
    assert caplog.messages == list(open_funasr_folder(copy)[1].remarks)
    assert "set tokenizer_conf.seg_dict: seg_dict.txt in" in caplog.text
    edit_config(copy, "tokenizer_conf", seg_dict="seg_dict.txt")
    assert build_tokenizer(config, []) == load_parts(RECORDED)[1]


def test_a_tokenizer_of_a_converted_model_is_taken_by_beginning_with_it(tmp_path):
    tokenizer = load_parts(RECORDED)[1]
    tokenizer.save(tmp_path)
    with pytest.raises(
        UserError, match=r"no tokens.json; by its tokenizer.json it is .*: begin with it \(--init FOLDER\)"
    ):
        build_tokenizer(TokenizerConfig(kind="funasr", file=str(tmp_path)), [])
    assert choose_tokenizer(Config(init=str(tmp_path), tokenizer=TokenizerConfig(kind="init")), []) == tokenizer
