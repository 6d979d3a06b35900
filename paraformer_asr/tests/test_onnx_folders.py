"""Folders with ONNX weights, as FunASR and sherpa-onnx publish them, open like the model that was exported."""

import json
import shutil
from pathlib import Path

import flax.traverse_util
import numpy as np
import pytest

from asr.data.cmvn import load_cmvn
from asr.data.text.building import read_token_file
from asr.errors import UserError
from asr.inference.loading import load_parts
from asr.published.funasr_config import read_settings
from asr.published.torch_file import read_torch_file
from asr.published.weights_file import read_tensors
from onnx_writer import export, model, node, tensor

RECORDED = Path(__file__).parent / "recorded" / "funasr_tiny"
WEIGHTS = read_torch_file(RECORDED / "model.pt").tensors
CMVN = load_cmvn(RECORDED / "am.mvn")
HEADS = ((2, 8), (2, 8), (3, 4))  # the last is another reshape, which the width refutes
METADATA = {
    "model_type": "paraformer",
    "lfr_window_size": "7",
    "lfr_window_shift": "6",
    "neg_mean": ",".join(map(str, CMVN.shift)),
    "inv_stddev": ",".join(map(str, CMVN.scale)),
}


@pytest.fixture(scope="module")
def expected():
    return load_parts(RECORDED)


@pytest.fixture
def funasr(tmp_path):
    """FunASR's folder with the exported model instead of the PyTorch one."""
    folder = Path(shutil.copytree(RECORDED, tmp_path / "exported", ignore=shutil.ignore_patterns("model.pt", "*.npz")))
    (folder / "model.onnx").write_bytes(export(WEIGHTS))
    return folder


@pytest.fixture
def sherpa(tmp_path):
    folder = tmp_path / "sherpa"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(export(WEIGHTS, heads=HEADS, metadata=METADATA))
    tokens = json.loads((RECORDED / "tokens.json").read_text())
    (folder / "tokens.txt").write_text("".join(f"{token} {number}\n" for number, token in enumerate(tokens)))
    return folder


def same(parts, expected):
    """The same weights, but for the embedding that only training needs, vocabulary and normalisation."""
    arrays, others = (flax.traverse_util.flatten_dict(x[3]["params"], sep="/") for x in (parts, expected))
    assert arrays.keys() == others.keys()
    for name, values in others.items():
        np.testing.assert_array_equal(arrays[name], 0 if name == "decoder/embedding" else values, err_msg=name)
    assert parts[1].tokens == expected[1].tokens
    np.testing.assert_array_equal(parts[2].shift, expected[2].shift)
    np.testing.assert_array_equal(parts[2].scale, expected[2].scale)


def refusal(folder):
    with pytest.raises(UserError) as error:
        load_parts(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_export_of_funasr_opens_like_its_model(funasr, expected, caplog):
    """Whatever configuration.json says of model.pt, which is not there, and without the CTC head, never exported."""
    config = (funasr / "config.yaml").read_text().replace("ctc_weight: 0.0", "ctc_weight: 0.3")
    (funasr / "config.yaml").write_text(config)
    parts = load_parts(funasr)
    same(parts, expected)
    assert parts[0].model == expected[0].model
    assert "leaves out the embedding of tokens" in caplog.text
    (funasr / "configuration.json").unlink()
    (funasr / "model.onnx").rename(funasr / "model_quant.onnx")
    same(load_parts(funasr), expected)


def test_the_pytorch_weights_come_first_and_a_name_that_is_stated_counts(funasr, expected, caplog):
    (funasr / "model_quant.onnx").write_bytes(export(WEIGHTS, in_int8=True))
    content = json.loads((funasr / "configuration.json").read_text())
    content["file_path_metas"]["init_param"] = "model_quant.onnx"
    (funasr / "configuration.json").write_text(json.dumps(content))
    load_parts(funasr)
    assert "model_quant.onnx: " in caplog.text and "8-bit" in caplog.text
    shutil.copy(RECORDED / "model.pt", funasr)
    (funasr / "configuration.json").unlink()
    assert load_parts(funasr)[3]["params"]["decoder"]["embedding"].any()


def test_a_folder_of_sherpa_onnx_says_everything_in_its_model(sherpa, expected):
    parts = load_parts(sherpa)
    same(parts, expected)
    model, theirs = parts[0].model, expected[0].model
    for part in ("encoder", "decoder"):
        for name in ("num_layers", "num_heads", "ffn_width", "kernel_size"):
            assert getattr(getattr(model, part), name) == getattr(getattr(theirs, part), name), name
    assert model.encoder.width == theirs.encoder.width
    assert model.decoder.num_memory_layers == theirs.decoder.num_memory_layers
    assert (model.predictor.kind, model.predictor.left_frames, model.predictor.right_frames) == ("conv", 1, 1)
    assert model.predictor.tail_threshold == pytest.approx(0.3)
    features = ("num_mels", "lfr_m", "lfr_n", "window", "sample_rate_hz")
    assert all(getattr(parts[0].features, name) == getattr(expected[0].features, name) for name in features)
    assert read_settings(sherpa, ["inference.batch_size=3"]).inference.batch_size == 3


def test_the_8_bit_model_of_sherpa_onnx(sherpa, expected):
    (sherpa / "model.onnx").unlink()
    (sherpa / "model.int8.onnx").write_bytes(export(WEIGHTS, in_int8=True, heads=HEADS, metadata=METADATA))
    kernel, theirs = (x[3]["params"]["encoder"]["block1"]["qkv"]["kernel"] for x in (load_parts(sherpa), expected))
    assert 0 < np.abs(kernel - theirs).max() < 0.006 * np.abs(theirs).max()


def test_a_list_of_tokens_with_numbers_behind_them(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("<blank> 0\n7 1\n@@ 2\n")
    assert read_token_file(path) == ["<blank>", "7", "@@"]
    path.write_text("<blank> 0\nnew york\n")  # one line without its number: no line has one
    assert read_token_file(path) == ["<blank> 0", "new york"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model_type": "sense_voice_ctc"},
            "a model of the type 'sense_voice_ctc'; of sherpa-onnx's models Paraformer",
        ),
        ({"neg_mean": None}, "its metadata hold no neg_mean, and there is no config.yaml"),
        ({"neg_mean": METADATA["neg_mean"][:-2] + "x"}, "neg_mean in its metadata: expected finite numbers"),
        ({"inv_stddev": "1,2"}, "56 values of neg_mean, but 2 of inv_stddev"),
        ({"lfr_window_shift": "-6"}, "lfr_window_shift in its metadata: expected a number of frames, found '-6'"),
    ],
    ids=str,
)
def test_metadata_of_another_model_are_refused(sherpa, change, said):
    metadata = {key: value for key, value in (METADATA | change).items() if value is not None}
    (sherpa / "model.onnx").write_bytes(export(WEIGHTS, heads=HEADS, metadata=metadata))
    assert said in refusal(sherpa)


@pytest.mark.parametrize("heads", [(), ((2, 8), (4, 4))], ids=["none", "two"])
def test_heads_that_cannot_be_told_are_refused(sherpa, heads):
    (sherpa / "model.onnx").write_bytes(export(WEIGHTS, heads=heads, metadata=METADATA))
    assert "cannot tell the number of attention heads" in refusal(sherpa)


def test_an_encoder_alone_is_called_by_what_it_returns(funasr, sherpa):
    content = model(
        [node("MatMul", ["x", "onnx::MatMul_1"], ["y"], "/cif_output/MatMul")],
        [tensor("onnx::MatMul_1", np.ones((3, 1), np.float32))],
        METADATA,
        outputs=("enc", "alphas"),
    )
    (funasr / "model.onnx").write_bytes(content)
    message = refusal(funasr)
    assert "an ONNX model of another kind, or a part of one: it holds no encoder.after_norm.weight" in message
    assert "returns 'enc, alphas'" in message
    (sherpa / "model.onnx").write_bytes(content)
    assert "expected a Paraformer, but its weights hold no encoder.after_norm.weight" in refusal(sherpa)


def test_the_part_that_reads_hot_words_is_read_with_the_model(funasr):
    content = model(
        [node("Gather", ["embedding.0.weight", "x"], ["e"])], [tensor("embedding.0.weight", np.eye(3, dtype="f4"))]
    )
    (funasr / "model_eb.onnx").write_bytes(content)
    tensors = read_tensors(funasr / "model.onnx", "encoder.after_norm.weight")
    np.testing.assert_array_equal(tensors["decoder.embed.0.weight"], np.eye(3))
    assert tensors.keys() == WEIGHTS.keys()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["encoder.onnx", "decoder.onnx", "tokens.txt"], "a model in parts, such as a streaming one"),
        (["model_eb.onnx", "tokens.json"], "the part of an ONNX export that reads hot words: its model.onnx belongs"),
        (["other.onnx", "tokens.json"], "an ONNX export: copy config.yaml, tokens.json and am.mvn"),
    ],
    ids=str,
)
def test_folders_that_are_not_opened_say_what_they_are(tmp_path, files, said):
    for name in files:
        (tmp_path / name).touch()
    assert said in refusal(tmp_path)
