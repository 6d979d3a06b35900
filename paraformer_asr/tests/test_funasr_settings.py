"""The settings of a FunASR folder: each is followed, refused, or listed as without effect."""

import functools
import shutil
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from asr.errors import UserError
from asr.losses import paraformer_loss
from asr.models import build_model
from asr.published.funasr import funasr_pairs, load_funasr
from asr.published.funasr_config import read_funasr_config
from asr.published.funasr_settings import FIXED, OF_PROGRAM, OF_TRAINING, READ_ELSEWHERE, SETTINGS, WITHOUT_EFFECT
from asr.published.mapping import export_arrays
from asr.published.torch_file import read_torch_file
from asr.published.torch_writer import write_torch_file

RECORDED = Path(__file__).parent / "recorded" / "funasr_tiny"
DOCUMENT = Path(__file__).parents[1] / "docs" / "published_models.md"
LISTED = [(section, key) for section, kinds in WITHOUT_EFFECT.items() for keys in kinds.values() for key in keys]

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def answers(name="answers_of_settings.npz"):
    with np.load(RECORDED / name) as file:
        return dict(file)


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(RECORDED, tmp_path / "copy"))


def edit(folder, section, **values):
    content = yaml.safe_load((folder / "config.yaml").read_text())
    target = content.setdefault(section, {}) if section else content
    target.update(values)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


# Every key has one place.


def test_no_key_stands_in_two_places():
    places = [(s.section, s.key) for s in SETTINGS] + [(section, key) for section, key, _ in FIXED] + LISTED
    places += [(section, key) for section, keys in READ_ELSEWHERE.items() for key in keys]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("section", WITHOUT_EFFECT)
def test_a_key_without_a_place_is_refused_in_every_section(copy, section):
    edit(copy, section, of_tomorrow=3)
    with pytest.raises(UserError) as error:
        read_funasr_config(copy)
    dotted = f"{section}.of_tomorrow" if section else "of_tomorrow"
    assert str(error.value).startswith(f"{copy / 'config.yaml'}: {dotted}: not known here")
    edit(copy, "", **{section: {}} if section else {"of_tomorrow": None})  # off, or taken out
    if not section:
        read_funasr_config(copy)


@pytest.mark.parametrize("key", ["vad_model", "punc_model", "spk_model", "lm_file", "decoding_ctc_weight", "fp16"])
def test_what_would_change_the_answers_from_outside_of_the_network_is_refused(copy, key):
    edit(copy, "", **{key: 0.3 if "weight" in key else "x"})
    with pytest.raises(UserError, match=f"{key}: not known here"):
        read_funasr_config(copy)


@pytest.mark.parametrize(("section", "key"), LISTED, ids=str)
def test_what_is_listed_as_without_effect_changes_nothing_that_is_read(copy, section, key):
    """That FunASR answers the same whatever it says is shown by tests/parity/test_funasr_settings_parity.py."""
    expected = read_funasr_config(copy)
    edit(copy, section, **{key: {"x": 3} if key.endswith("_conf") else 3})
    assert read_funasr_config(copy) == expected


def test_the_document_lists_every_key_that_is_without_effect():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [key for _, key in LISTED if f"`{key}`" not in text] == []
    assert {kind for kinds in WITHOUT_EFFECT.values() for kind in kinds} >= {OF_PROGRAM, OF_TRAINING}


def test_noise_is_added_in_training_as_there(copy):
    assert read_funasr_config(copy).features.dither == 1.0
    edit(copy, "frontend_conf", dither=0.0)
    assert read_funasr_config(copy).features.dither == 0.0


# How many tokens there are without a tail.


@quick_jit
def transcribe(variables, features_bti, lengths_b):
    model = no_tail_model()[0]
    acoustics = model.apply(variables, features_bti, lengths_b, method="encode")
    return acoustics.token_count_b, model.apply(variables, acoustics, 10, method="decode").logits_buv


@functools.cache
def no_tail_model():
    config, *_, variables = load_funasr(no_tail_model.folder)
    return build_model(config.model), variables


@pytest.mark.parametrize("stated", [{}, {"tail_threshold": 0.0}, {"tail_threshold": 0}])
def test_without_a_tail_the_count_is_rounded_as_there(copy, stated):
    """Half of these utterances end with a token that has not fired: it counts, and has no embedding."""
    content = yaml.safe_load((copy / "config.yaml").read_text())
    del content["predictor_conf"]["tail_threshold"]
    content["predictor_conf"] |= stated
    (copy / "config.yaml").write_text(yaml.safe_dump(content))
    assert read_funasr_config(copy).model.predictor.tail_threshold == 0
    if stated:
        return
    no_tail_model.folder = copy
    expected = {key.removeprefix("no_tail/"): x for key, x in answers().items() if key.startswith("no_tail/")}
    features, lengths = np.zeros((len(expected), 14, 56), np.float32), np.zeros(len(expected), np.int32)
    for row, name in enumerate(expected):
        features_ti = answers("answers.npz")[f"{name[:-1]}_features"][0]
        lengths[row] = len(features_ti) - int(name[-1])
        features[row, : lengths[row]] = features_ti[: lengths[row]]
    counts_b, logits_buv = transcribe(no_tail_model()[1], features, lengths)
    assert counts_b.tolist() == [len(logits_uv) for logits_uv in expected.values()]
    for row, logits_uv in enumerate(expected.values()):
        np.testing.assert_allclose(logits_buv[row, : len(logits_uv)], logits_uv, atol=1e-4)


# The loss.


@pytest.mark.parametrize("case", ["ctc", "by_utterance"])
def test_the_loss_and_its_gradients_are_divided_as_there(copy, case):
    """CTC by the utterances; the rest by the tokens, or by the utterances without length_normalized_loss."""
    rng = np.random.default_rng(0)
    tensors = dict(read_torch_file(copy / "model.pt").tensors)
    tensors["ctc.ctc_lo.weight"] = rng.normal(size=(16, 16)).astype(np.float32)
    tensors["ctc.ctc_lo.bias"] = rng.normal(size=16).astype(np.float32)
    write_torch_file(copy / "model.pt", tensors)
    edit(copy, "model_conf", ctc_weight=0.3, length_normalized_loss=case == "ctc")
    config, *_, variables = load_funasr(copy)
    assert config.loss.ctc_normaliser == "utterances"
    model, batch = build_model(config.model), answers("answers.npz")
    features_bti, tokens_bu, lengths_b = (batch[f"train_{key}"] for key in ("features", "tokens", "lengths"))
    frame_lengths_b = np.full(2, features_bti.shape[1], np.int32)

    def loss(params):
        outputs = model.apply({"params": params}, features_bti, frame_lengths_b, tokens_bu, lengths_b, train=False)
        counts = {"normalizer": jnp.float32(lengths_b.sum()), "num_utterances": jnp.float32(2)}
        return paraformer_loss(outputs, tokens_bu, lengths_b, config.loss, append_eos=True, **counts)[0]

    total, gradients = quick_jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(total, answers()[f"{case}/loss"], rtol=1e-5)
    flat = flax.traverse_util.flatten_dict({"params": gradients}, sep="/")
    found = export_arrays(funasr_pairs(config.model), {name: np.asarray(array) for name, array in flat.items()})
    recorded = {key.split("grad/")[1]: g for key, g in answers().items() if key.startswith(f"{case}/grad")}
    assert len(recorded) == 4
    for name, gradient in recorded.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-4 * np.abs(gradient).max(), err_msg=name)
