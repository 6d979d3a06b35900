"""A streaming Paraformer in FunASR's layout: read, written, refused, and heard piece by piece as FunASR hears it.

`recorded/streaming_tiny` is a model folder that FunASR's own modules wrote with random weights (width 8). Beside it is
what FunASR made of each piece of `streaming_folder.sounds`, and what its exported pair of graphs made of them.
"""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
import yaml

from asr.errors import UserError
from asr.inference.transcriber import load_transcriber
from asr.published.funasr import load_funasr, save_funasr
from asr.published.torch_file import read_torch_file
from onnx_writer import export
from streaming_folder import caches_of, features_of, hear, layout_of, pieces_of, sounds
from tiny_stream import stream_all

RECORDED = Path(__file__).parent / "recorded" / "streaming_tiny"
ANSWERS = json.loads((RECORDED / "answers.json").read_text())
LAYOUTS = {
    "s0": layout_of((0, 10, 5), 4, 1),
    "s1": layout_of((5, 10, 5), 4, 1),
    "s2": layout_of((0, 8, 4), 4, 1),
    "s3": layout_of((0, 10, 5), 0, 0),
    "s4": layout_of((0, 10, 5), -1, 1),
    "s5": layout_of((3, 7, 2), 1, 2),
    "onnx": layout_of((5, 10, 5), 0, 0, "funasr_onnx"),
}


@functools.cache
def model():
    config, _, cmvn, variables = load_funasr(RECORDED)
    return config, cmvn, variables


@functools.cache
def arrays():
    with np.load(RECORDED / "answers.npz") as file:
        return {"tiny": np.zeros((0, 28), np.float32), **file}


def test_the_tokens_of_recorded_chunks_are_recorded_in_special_cases():
    """What the comparison below relies on: a chunk without a token, a last one without a frame, one heard twice."""
    assert [] in ANSWERS["s0/silent"]["ids"]
    tail = pieces_of(arrays()["tail"], len(sounds()["tail"]), LAYOUTS["s0"])
    assert [each[1:] for each in tail] == [(10, False)] * 3 + [(0, True)]
    for sound, num_new in (("full", 10), ("six", 6)):
        twice = pieces_of(arrays()[sound], len(sounds()[sound]), LAYOUTS["onnx"])
        assert [each[1:] for each in twice] == [(10, False)] * 2 + [(num_new, False), (5 - num_new, True)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_piece_is_as_recorded(name):
    config, _, variables = model()
    layout, compared = LAYOUTS[name], 0
    for sound, answer in ((key.partition("/")[2], ANSWERS[key]) for key in ANSWERS if key.startswith(f"{name}/")):
        pieces = pieces_of(arrays()[sound], len(sounds()[sound]), layout)
        steps = hear(config, variables, layout, pieces)
        # Frames that are heard again are not new ones.
        assert int(steps[-1][0].frames_b[0]) == sum(len(features_ti) for features_ti, *_ in pieces)
        assert [[int(i) for i in logits_uv.argmax(-1)] for _, logits_uv, _ in steps] == answer["ids"], sound
        for number, (state, logits_uv, alpha_w) in enumerate(steps):
            outside_w = np.delete(alpha_w, np.s_[layout.left : layout.left + layout.size])
            assert not outside_w.any() or number == len(steps) - 1
            for key, array in (caches_of(state) | {"logits": logits_uv}).items():
                expected = arrays().get(f"{name}/{sound}/{number}/{key}")
                if expected is not None:
                    rows = min(len(array), len(expected))  # FunASR's caches grow
                    place = f"{sound} {number} {key}"
                    np.testing.assert_allclose(array[-rows:], expected[-rows:], atol=1e-4, err_msg=place)
                    compared += 1
    assert compared > 10 or name in ("s2", "s3")


def test_the_features_are_funasrs():
    config, cmvn, _ = model()
    for name in ("tail", "silent"):
        # Kaldi's filterbank differs in rounding.
        np.testing.assert_allclose(
            features_of(config, cmvn, sounds()[name])[: len(arrays()[name])], arrays()[name], atol=5e-4
        )


def test_what_is_saved_is_loaded(tmp_path):
    config, tokenizer, cmvn, variables = load_funasr(RECORDED)
    save_funasr(tmp_path, config, tokenizer, cmvn, variables)
    again, *_, loaded = load_funasr(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert (again.model, again.features.num_mels) == (config.model, config.features.num_mels)
    theirs = read_torch_file(RECORDED / "model.pt").tensors
    for name, tensor in read_torch_file(tmp_path / "model.pt").tensors.items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)
    content, original = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (tmp_path, RECORDED))
    for key in ("model", "encoder", "decoder", "predictor", "frontend"):
        assert content[key] == original[key]
    assert (content["encoder_conf"]["input_layer"], content["decoder_conf"]["sanm_shfit"]) == ("pe_online", 2)


def edited(tmp_path, change):
    folder = shutil.copytree(RECORDED, tmp_path / "edited", ignore=shutil.ignore_patterns("answers*"))
    content = yaml.safe_load((folder / "config.yaml").read_text())
    change(content)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["decoder_conf"].update(sanm_shfit=1), "decoder_conf.sanm_shfit: expected 2"),
        (lambda c: c["decoder_conf"].pop("sanm_shfit"), "decoder_conf.sanm_shfit: expected 2"),
        (lambda c: c["decoder_conf"].update(num_blocks=3), "decoder_conf.num_blocks: expected 1 as att_layer_num"),
        (lambda c: c["encoder_conf"].update(chunk_sizes=[1]), "encoder_conf.chunk_sizes: not known here"),
        (lambda c: c["encoder_conf"].update(input_layer="pe"), "encoder_conf.input_layer: expected 'pe_online'"),
        (lambda c: c.update(frontend="WavFrontend"), "frontend: expected 'WavFrontendOnline'"),
    ],
    ids=["shift", "no-shift", "blocks", "unknown", "positions", "frontend"],
)
def test_other_models_are_refused(tmp_path, change, words):
    with pytest.raises(UserError) as error:
        load_funasr(edited(tmp_path, change))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_further_blocks_are_not_written(tmp_path):
    config, tokenizer, cmvn, variables = load_funasr(RECORDED)
    decoder = dataclasses.replace(config.model.decoder, num_memory_layers=1)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, decoder=decoder))
    with pytest.raises(UserError, match="num_memory_layers: FunASR's"):
        save_funasr(tmp_path, config, tokenizer, cmvn, variables)


@pytest.mark.parametrize("setting", [((0, 10, 5), 0, 0), ((5, 10, 5), 4, 0), ((5, 10, 5), 0, 1)])
def test_the_exported_pair_has_no_look_back_and_needs_left_context(setting):
    with pytest.raises(UserError, match="compat funasr_onnx: expected left context"):
        layout_of(*setting, "funasr_onnx")


@pytest.mark.parametrize(("compat", "rest", "pieces"), [
    ("none", 0, [(0, True)]),
    ("none", 23, [(10, False), (10, False), (3, True)]),
    ("none", 10, [(10, False), (0, True)]),
    ("funasr", 10, [(10, True)]),
    ("funasr", 0, [(0, True)]),
    ("funasr_onnx", 0, [(0, True)]),
    ("funasr_onnx", 5, [(5, True)]),
    ("funasr_onnx", 6, [(6, False), (-1, True)]),
    ("funasr_onnx", 10, [(10, False), (-5, True)]),
])  # fmt: skip
def test_the_pieces_at_the_end(compat, rest, pieces):
    assert layout_of((5, 10, 5), 0, 0, compat).final_pieces(rest) == pieces


def test_the_exported_pair_is_read_and_one_of_it_refused(tmp_path, caplog):
    folder = shutil.copytree(RECORDED, tmp_path / "pair", ignore=shutil.ignore_patterns("answers*", "model.pt"))
    tensors = read_torch_file(RECORDED / "model.pt").tensors
    for file, of_decoder in (("model.onnx", False), ("decoder.onnx", True)):
        part = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder.") == of_decoder}
        (folder / file).write_bytes(export(part))
    config, *_, variables = load_funasr(folder)
    pair, whole = (flax.traverse_util.flatten_dict(each["params"], sep="/") for each in (variables, model()[2]))
    assert pair.keys() == whole.keys() and config.model == model()[0].model
    for name, array in whole.items():
        np.testing.assert_array_equal(pair[name], 0 if name == "decoder/embedding" else array, err_msg=name)
    (folder / "decoder.onnx").unlink()
    with pytest.raises(UserError) as error:
        load_funasr(folder)
    assert "model.onnx: holds no decoder" in str(error.value) and "copy decoder.onnx into" in str(error.value)


def test_no_more_than_the_rest_is_heard_again():
    layout = layout_of((2, 4, 6), 0, 0, "funasr_onnx")
    assert layout.final_pieces(3) == [(3, False), (-3, True)]
    assert layout.final_pieces(0) == [(0, True)]


@pytest.mark.parametrize("name", ["s0", "s1"])
def test_a_stream_hears_what_funasr_heard(name):
    """From the samples to the tokens, cut into calls of other lengths than FunASR's; not its faults by default."""
    published, layout = load_transcriber(RECORDED), LAYOUTS[name]
    options = {"chunk_size": (layout.left, layout.size, layout.right), "encoder_look_back": 4, "decoder_look_back": 1}
    for sound, wave_n in sounds().items():
        if (answer := ANSWERS.get(f"{name}/{sound}")) is not None:
            events = stream_all(published.stream(**options, compat="funasr"), wave_n, 3333)
            assert [i for event in events for i in event.token_ids] == sum(answer["ids"], [])
    assert not published.stream(**options).push(sounds()["silent"])
