"""Models in FunASR's layout: read, written, compared with answers that FunASR gave, and refused where they differ.

`recorded/funasr_tiny` is a model folder that FunASR's own modules wrote with random weights (width 16), and
`answers.npz` beside it: what they answer to two utterances, each alone, and the loss and a few gradients of a batch
without the sampler and without dropout.
"""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from asr.config import (
    Config,
    DecoderConfig,
    EncoderConfig,
    FeaturesConfig,
    LossConfig,
    ModelConfig,
    PredictorConfig,
)
from asr.data.frontend import Cmvn
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.errors import UserError
from asr.funasr_folder import is_funasr_folder
from asr.losses import paraformer_loss
from asr.models import build_model, stack_blocks
from asr.ops import cif
from asr.published.funasr import array_shapes, funasr_pairs, load_funasr, save_funasr
from asr.published.funasr_config import read_settings
from asr.published.funasr_settings import FIXED
from asr.published.mapping import export_arrays
from asr.published.torch_file import read_torch_file
from asr.published.torch_writer import write_torch_file

RECORDED = Path(__file__).parent / "recorded" / "funasr_tiny"
NAMES = ("long", "short")

# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

TOKENIZER = Tokenizer(
    with_special_tokens(["今", "天", "he@@", "llo", "a", "b", "c", "d"]),
    "funasr",
    "lower",
    seg_dict={"hello": ("he@@", "llo")},
)
CMVN = Cmvn(np.linspace(-9, -8, 28).astype(np.float32), np.linspace(0.1, 0.7, 28).astype(np.float32))


def tiny_config(kind="conv", ctc=False, **predictor):
    return Config(
        features=FeaturesConfig(num_mels=4),
        loss=LossConfig(ctc_weight=0.25 if ctc else 0.0, label_smoothing=0.05, ctc_normaliser="utterances"),
        model=ModelConfig(
            vocab_size=TOKENIZER.vocab_size,
            input_dim=28,
            ctc_head=ctc,
            encoder=EncoderConfig(num_layers=3, width=8, num_heads=2, ffn_width=12, kernel_size=3),
            predictor=PredictorConfig(kind=kind, **predictor),
            decoder=DecoderConfig(num_layers=1, num_memory_layers=1, num_heads=2, ffn_width=10, kernel_size=5),
        ),
    )


def random_variables(model_config, seed=0):
    rng, shapes = np.random.default_rng(seed), array_shapes(model_config)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def saved(folder, config=None, variables=None, cmvn=CMVN):
    config = config or tiny_config()
    folder.mkdir()
    save_funasr(folder, config, TOKENIZER, cmvn, variables or random_variables(config.model))
    return folder


def edit(folder, change):
    """Change the settings of a folder."""
    content = yaml.safe_load((folder / "config.yaml").read_text())
    change(content)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def refusal(folder):
    with pytest.raises(UserError) as error:
        load_funasr(folder)
    return str(error.value)


# Round trips.


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config("depthwise", ctc=True, tail_threshold=0.3, left_frames=2, append_eos=False, dropout=0.2),
    ],
    ids=["conv", "depthwise"],
)
def test_what_is_saved_is_loaded(tmp_path, config):
    variables = random_variables(config.model)
    folder = saved(tmp_path / "tiny", config, variables)
    found, tokenizer, cmvn, loaded = load_funasr(folder)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert tokenizer == TOKENIZER
    np.testing.assert_array_equal(cmvn.shift, CMVN.shift)
    np.testing.assert_array_equal(cmvn.scale, CMVN.scale)
    assert (found.model, found.loss) == (config.model, config.loss)
    assert found.name == "tiny"
    again = tmp_path / "again"
    again.mkdir()
    save_funasr(again, found, tokenizer, cmvn, loaded)
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_model_without_normalisation_and_a_scanned_one(tmp_path):
    config = tiny_config()
    variables = random_variables(config.model)
    scanned = dataclasses.replace(config.model, encoder=dataclasses.replace(config.model.encoder, scan=True))
    plain = saved(tmp_path / "plain", config, variables, cmvn=None)
    stacked = {"params": stack_blocks(variables["params"])}
    assert jax.tree.structure(stacked) != jax.tree.structure(variables)
    folder = saved(tmp_path / "scanned", dataclasses.replace(config, model=scanned), stacked, cmvn=None)
    assert (folder / "model.pt").read_bytes() == (plain / "model.pt").read_bytes()
    found, _, cmvn, _ = load_funasr(folder)
    assert cmvn is None
    assert found.features.cmvn == "none"


def test_every_published_tensor_goes_back_with_its_values():
    config, *_, variables = load_funasr(RECORDED)
    arrays = flax.traverse_util.flatten_dict(variables, sep="/")
    back, expected = export_arrays(funasr_pairs(config.model), arrays), read_torch_file(RECORDED / "model.pt").tensors
    assert back.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_half_the_precision_is_read_as_float32(tmp_path):
    folder = saved(tmp_path / "tiny")
    tensors = read_torch_file(folder / "model.pt").tensors
    write_torch_file(folder / "model.pt", {name: tensor.astype(np.float16) for name, tensor in tensors.items()})
    *_, variables = load_funasr(folder)
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float16), random_variables(tiny_config().model))
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


# Against FunASR's answers.


@functools.cache
def answers():
    with np.load(RECORDED / "answers.npz") as file:
        return dict(file)


@functools.cache
def recorded_model():
    config, tokenizer, _, variables = load_funasr(RECORDED)
    return build_model(config.model), config, tokenizer, variables


NUM_ROWS = 12


@quick_jit
def listen_and_spell(variables, features_bti, lengths_b):
    """Return (acoustics, acoustic embeddings, hypotheses)."""
    model = recorded_model()[0]
    acoustics = model.apply(variables, features_bti, lengths_b, method="encode")
    alignment_but = cif.align(cif.cumulative(acoustics.alpha_bt), NUM_ROWS)
    acoustic_bud = cif.integrate(alignment_but[:, :, :-1], acoustics.hidden_btd)
    return acoustics, acoustic_bud, model.apply(variables, acoustics, NUM_ROWS, method="decode")


def check_answers(name, row, found):
    """Compare a row of a batch with FunASR's answers to the utterance alone."""
    expected = {key.removeprefix(f"{name}_"): value for key, value in answers().items() if key.startswith(name)}
    acoustics, acoustic_bud, hypotheses = found
    num_frames, num_tokens = expected["hidden"].shape[1], len(expected["ids"])
    for array, key, size in (
        (acoustics.hidden_btd, "hidden", num_frames),
        (acoustics.alpha_bt, "alpha", num_frames + 1),
        (acoustic_bud, "acoustic", num_tokens),
        (hypotheses.logits_buv, "logits", num_tokens),
    ):
        np.testing.assert_allclose(array[row, :size], expected[key][0], atol=1e-4, err_msg=key)
        assert np.ptp(expected[key]) > 0.1  # else the comparison says little
    assert hypotheses.token_lengths_b[row] == num_tokens > 3
    ids = np.asarray(hypotheses.logits_buv[row, :num_tokens].argmax(-1))
    np.testing.assert_array_equal(ids, expected["ids"])
    assert recorded_model()[2].decode(ids) == str(expected["text"])


def test_answers_are_those_of_funasr_alone_and_in_a_batch():
    """FunASR's own answers change in a batch; ours are those of its single runs."""
    variables = recorded_model()[3]
    features = [answers()[f"{name}_features"][0] for name in NAMES]
    longest = max(map(len, features))
    together = np.stack([np.pad(x_ti, ((0, longest - len(x_ti)), (0, 0)), constant_values=7) for x_ti in features])
    lengths_b = np.array([len(x_ti) for x_ti in features], np.int32)
    assert len(set(lengths_b)) == 2
    found = listen_and_spell(variables, together, lengths_b)
    for row, name in enumerate(NAMES):
        check_answers(name, row, found)
        alone = np.where(np.arange(2) == row, lengths_b, 0).astype(np.int32)  # the other row is empty
        check_answers(name, row, listen_and_spell(variables, together, alone))


def test_loss_and_gradients_are_those_of_funasr():
    """Without the sampler and dropout, on a batch whose last fires FunASR keeps."""
    model, config, _, variables = recorded_model()
    features_bti, tokens_bu, lengths_b = (answers()[f"train_{key}"] for key in ("features", "tokens", "lengths"))
    frame_lengths_b = np.full(len(features_bti), features_bti.shape[1], np.int32)

    def loss(params):
        outputs = model.apply({"params": params}, features_bti, frame_lengths_b, tokens_bu, lengths_b, train=False)
        settings = {"append_eos": True, "normalizer": jnp.float32(lengths_b.sum())}
        return paraformer_loss(outputs, tokens_bu, lengths_b, config.loss, **settings)

    (total, parts), gradients = quick_jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(total, answers()["train_loss"], atol=1e-4)
    np.testing.assert_allclose(parts["cross_entropy"], answers()["train_loss_att"], atol=1e-4)
    np.testing.assert_allclose(parts["quantity"], answers()["train_loss_pre"], atol=1e-4)
    flat = flax.traverse_util.flatten_dict({"params": gradients}, sep="/")
    found = export_arrays(funasr_pairs(config.model), {name: np.asarray(array) for name, array in flat.items()})
    recorded = {name.removeprefix("grad/"): g for name, g in answers().items() if name.startswith("grad/")}
    assert len(recorded) == 7
    for name, gradient in recorded.items():
        scale = np.abs(gradient).max()
        assert scale > 1e-3
        np.testing.assert_allclose(found[name], gradient, rtol=1e-3, atol=1e-3 * scale, err_msg=name)


# Settings.


def test_what_a_config_leaves_out_has_the_defaults_of_funasr(tmp_path):
    config = tiny_config()
    model = dataclasses.replace(
        config.model,
        encoder=EncoderConfig(num_layers=6, width=8, num_heads=4, ffn_width=2048, kernel_size=11),
        decoder=DecoderConfig(num_layers=6, num_heads=4, ffn_width=2048, kernel_size=21),
        predictor=PredictorConfig(kind="depthwise", tail_threshold=0.45, append_eos=False),
        sampling_ratio=0.2,
        input_dim=80,
        ctc_head=True,
    )
    features = FeaturesConfig(lfr_m=1, lfr_n=1)
    full = dataclasses.replace(config, model=model, features=features, loss=LossConfig(ctc_weight=0.5))
    folder = saved(tmp_path / "tiny", full, cmvn=None)

    def keep_little(content):
        for section in ("model_conf", "encoder_conf", "decoder_conf", "predictor_conf", "frontend_conf"):
            keep = {"output_size", "input_layer", "l_order", "r_order", "idim"}
            content[section] = {key: value for key, value in content[section].items() if key in keep}
        content["decoder_conf"] = content["frontend_conf"] = None

    edit(folder, keep_little)
    found, *_ = load_funasr(folder)
    assert dataclasses.replace(found.model, decoder=model.decoder) == model
    assert dataclasses.replace(found.model.decoder, num_memory_layers=0) == model.decoder
    assert (found.features.lfr_m, found.features.lfr_n, found.features.num_mels) == (1, 1, 80)
    assert (found.loss.ctc_weight, found.loss.label_smoothing, found.loss.quantity_weight) == (0.5, 0.0, 0.0)
    edit(folder, lambda content: content.update(predictor="CifPredictorV2"))
    assert read_settings(folder).model.predictor.tail_threshold == 0


def test_the_window_of_hann_has_another_name_there(tmp_path):
    config = tiny_config()
    features = dataclasses.replace(config.features, window="hann")
    folder = saved(tmp_path / "tiny", dataclasses.replace(config, features=features))
    assert yaml.safe_load((folder / "config.yaml").read_text())["frontend_conf"]["window"] == "hanning"
    assert read_settings(folder).features.window == "hann"


def test_settings_may_be_overridden(tmp_path):
    folder = saved(tmp_path / "tiny")
    assert is_funasr_folder(folder)
    assert read_settings(folder).inference.whole_up_to_s == 20
    assert read_settings(folder, ["inference.batch_size=3"]).inference.batch_size == 3
    assert not is_funasr_folder(tmp_path)


OTHER = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value / 2,
    str: lambda value: f"{value}X",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("saved") / "tiny")


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize(("section", "key", "value"), FIXED, ids=[f"{f[0]}.{f[1]}" for f in FIXED])
def test_another_network_is_refused_with_section_and_key(copy, section, key, value):
    other = OTHER.get(type(value), lambda _: [3])(value)
    edit(copy, lambda content: (content[section] if section else content).update({key: other}))
    with pytest.raises(UserError) as error:
        read_settings(copy)
    dotted = f"{section}.{key}" if section else key
    wanted, found = (json.dumps(v) if v is None or isinstance(v, bool) else repr(v) for v in (value, other))
    said = f"expected {wanted}, the only value that is read here, found {found}"
    assert str(error.value) == f"{copy / 'config.yaml'}: {dotted}: {said}"


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        (
            "",
            "predictor",
            "CifPredictorV3",
            "predictor: expected CifPredictorV2 or CifPredictor, found 'CifPredictorV3'",
        ),
        ("encoder_conf", "num_blocks", "50", "encoder_conf.num_blocks: expected a value like 50, found '50'"),
        ("encoder_conf", "num_blocks", True, "encoder_conf.num_blocks: expected a value like"),
        ("encoder_conf", "num_blocks", 0, "encoder_conf.num_blocks: expected 1 to 200, found 0"),
        ("encoder_conf", "attention_heads", 3, "num_heads"),
        ("encoder_conf", "tied", 1, "encoder_conf.tied: not known here; it might change the transcripts"),
        ("decoder_conf", "num_blocks", None, "decoder_conf.num_blocks: expected a value like 0, found None"),
        ("predictor_conf", "l_order", None, "predictor_conf.l_order: expected a value like"),
        ("model_conf", "predictor_bias", 2, "model_conf.predictor_bias: expected 0 or 1, found 2"),
        ("frontend_conf", "window", "blackman", "frontend_conf.window: expected one of hamming, hann, povey"),
        ("", "encoder_conf", [1], "encoder_conf: expected a section, found [1]"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(copy, section, key, value, said):
    edit(copy, lambda content: (content[section] if section else content).update({key: value}))
    with pytest.raises(UserError) as error:
        read_settings(copy)
    assert str(error.value).startswith(f"{copy / 'config.yaml'}: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [", ":1: not valid YAML"),
        (b"\xff\xfe", ":1: expected the settings of a FunASR model in UTF-8"),
        (b"- a", ": expected the settings of a FunASR model, found ['a']"),
        (b"a: 2001-99-99", ": not valid YAML (month must be in 1..12"),
        (b"a: &a {b: 1}\nc: {<<: [*a, *a]}", ":2: merge keys (<<) are not allowed"),
        (b"a: " + b"[" * 17, ":1: lists and mappings nested more than 16 deep"),
        (b"a: [" + b"1, " * 5000 + b"]", ":1: more than 4096 values"),
    ],
)
def test_a_config_that_is_none_is_refused(copy, content, said):
    (copy / "config.yaml").write_bytes(content)
    assert refusal(copy).startswith(f"{copy / 'config.yaml'}{said}")


@pytest.mark.parametrize("key", ["encoder", "predictor", "encoder_conf"])
def test_a_small_config_that_unfolds_to_a_huge_one_is_answered_at_once(copy, key):
    lines = ["l0: &l0 [x, x]", *(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12))]
    text = "".join(f"{line}\n" for line in [*lines, f"{key}: *l11"])
    rest = yaml.safe_load((copy / "config.yaml").read_text())
    rest.pop(key)
    (copy / "config.yaml").write_text(text + yaml.safe_dump(rest))
    message = refusal(copy)
    assert f"{key}: expected" in message
    assert len(message) < 1000


# Files that contradict each other.


def listed(message):
    return [line.strip().split(": ")[0] for line in message.splitlines()[1:]]


def test_one_block_too_few_or_too_many_is_listed(copy):
    edit(copy, lambda content: content["encoder_conf"].update(num_blocks=4))
    message = refusal(copy)
    assert message.startswith(f"{copy / 'model.pt'}: 13 of its tensors do not fit the model")
    assert all(name.startswith("encoder.encoders.2.") for name in listed(message))
    assert message.count("missing, expected") == 13
    edit(copy, lambda content: content["encoder_conf"].update(num_blocks=2))
    message = refusal(copy)
    assert all(name.startswith("encoder.encoders.1.") for name in listed(message))
    assert message.count(": unexpected, ") == 13
    edit(copy, lambda content: content["encoder_conf"].update(num_blocks=3))
    edit(copy, lambda content: content["decoder_conf"].update(num_blocks=1))
    message = refusal(copy)
    assert all(name.startswith("decoder.decoders2.0.") for name in listed(message))
    assert message.count(": unexpected, ") == 10


def test_another_width_is_listed(copy):
    edit(copy, lambda content: content["decoder_conf"].update(linear_units=6))
    message = refusal(copy)
    assert "  decoder.decoders.0.feed_forward.w_1.weight: expected floats [6, 8], found float32[10, 8]" in message
    assert {name.rpartition(".feed_forward.")[0] for name in listed(message)} == {
        "decoder.decoders.0",
        "decoder.decoders2.0",
        "decoder.decoders3.0",
    }


def test_missing_surplus_and_misshaped_tensors_are_listed_together(copy):
    tensors = dict(read_torch_file(copy / "model.pt").tensors)
    del tensors["encoder.after_norm.bias"]
    tensors["surplus"] = np.zeros(3, np.float32)
    tensors["predictor.cif_output.weight"] = np.zeros((2, 8), np.float32)
    write_torch_file(copy / "model.pt", tensors)
    assert listed(refusal(copy)) == ["encoder.after_norm.bias", "predictor.cif_output.weight", "surplus"]


@pytest.mark.parametrize("change", [1, -1])
def test_a_vocabulary_of_another_length_is_one_message(copy, change):
    tokens = json.loads((copy / "tokens.json").read_text())
    tokens = [*tokens[:-1], "x", "<unk>"] if change == 1 else [*tokens[:-2], "<unk>"]
    (copy / "tokens.json").write_text(json.dumps(tokens))
    assert refusal(copy) == (
        f"{copy / 'tokens.json'}: {12 + change} tokens, but model.pt was trained with 12 "
        "(decoder.output_layer.weight); the two do not belong together"
    )


def test_a_normalisation_of_another_width_is_refused(copy):
    edit(copy, lambda content: content["frontend_conf"].update(lfr_m=3))
    assert refusal(copy) == f"{copy / 'am.mvn'}: expected n_mels · lfr_m = 12 values as config.yaml says, found 28"


@pytest.mark.parametrize("name", ["model.pt", "config.yaml", "tokens.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    assert refusal(copy).startswith(f"{copy / name}: missing, but configuration.json names it (")
    (copy / "configuration.json").unlink()
    assert refusal(copy) == f"{copy}: expected a model folder of FunASR, but it holds no {name}"


def test_a_normalisation_that_is_named_must_be_there(copy):
    (copy / "am.mvn").unlink()
    assert refusal(copy) == (
        f"{copy / 'am.mvn'}: missing, but configuration.json names it (frontend_conf.cmvn_file); copy it there from "
        "where the model is, or correct its name in configuration.json"
    )
    (copy / "configuration.json").unlink()
    assert load_funasr(copy)[2] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"encoder": {"kind": "conformer"}}}, "model.encoder.kind: FunASR's Paraformer has 'sanm'"),
        ({"model": {"encoder": {"causal": True}}}, "model.encoder.causal"),
        ({"model": {"decoder": {"num_ffn_layers": 2}}}, "model.decoder.num_ffn_layers"),
        ({"features": {"preemphasis": 0.9}}, "features.preemphasis"),
        ({"features": {"high_frequency_hz": 7000.0}}, "features.high_frequency_hz"),
    ],
    ids=str,
)
def test_a_model_that_funasr_cannot_hold_is_not_written(tmp_path, change, said):
    def replaced(config, change):
        inner = {k: replaced(getattr(config, k), v) if isinstance(v, dict) else v for k, v in change.items()}
        return dataclasses.replace(config, **inner)

    with pytest.raises(UserError, match=said):
        save_funasr(tmp_path, replaced(tiny_config(), change), TOKENIZER, None, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("model", "weight"), [({"ctc_head": True}, 0.0), ({"ctc_head": False}, 0.3)])
def test_the_advice_about_a_ctc_head_that_only_config_or_weights_have_works(tmp_path, model, weight):
    config = tiny_config()
    loss = LossConfig(ctc_weight=0.3 if model["ctc_head"] else 0.0)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **model), loss=loss)
    copy = saved(tmp_path / "copy", config)
    edit(copy, lambda content: content["model_conf"].update(ctc_weight=weight))
    message = refusal(copy)
    assert message.startswith(f"{copy / 'model.pt'}: holds {'no' if weight else 'a'} CTC head")
    advised = 0.0 if weight else 0.3
    assert f"model_conf.ctc_weight is {weight:g} in config.yaml" in message and f"{advised}" in message
    edit(copy, lambda content: content["model_conf"].update(ctc_weight=advised))
    assert load_funasr(copy)[0].model.ctc_head == model["ctc_head"]
