"""Beginning with the weights of another model: what is taken over, what is new, what is refused, and who is asked."""

import argparse
import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
import yaml

from asr.api import load_initial
from asr.checkpoints import CheckpointStore
from asr.checkpoints.arrays import named_arrays
from asr.config import Config, DecoderConfig, EncoderConfig, FeaturesConfig, ModelConfig, TokenizerConfig, ToyConfig
from asr.config.reader import load_config, load_start_config, save_config
from asr.data.cmvn import load_cmvn
from asr.data.frontend import Cmvn
from asr.data.text.building import build_tokenizer
from asr.errors import UserError
from asr.inference.model_folder import save_model_folder
from asr.models import build_model
from asr.record.run_dir import create_run_dir
from asr.train import read_config
from asr.training.setup import build_setup
from asr.training.state import TrainState, init_state
from asr.training.warm_start import InitialModel, plan_warm_start

TOKENIZER = build_tokenizer(TokenizerConfig(text_case="lower"), ["abcd"])
CONFIG = Config(
    features=FeaturesConfig(num_mels=6, lfr_m=2, lfr_n=2, sample_rate_hz=8000),
    model=ModelConfig(
        vocab_size=TOKENIZER.vocab_size,
        encoder=EncoderConfig(num_layers=3, width=4, num_heads=1, ffn_width=4, kernel_size=3),
        decoder=DecoderConfig(num_layers=1, num_ffn_layers=0, num_heads=1, ffn_width=4, kernel_size=3),
    ),
)
TOY = {"num_letters": 3, "num_train": 9, "num_val": 2, "max_words": 1}
CMVN = Cmvn(np.full(12, 9.0, np.float32), np.full(12, 0.5, np.float32))


def with_model(**settings):
    encoder = dataclasses.replace(CONFIG.model.encoder, **settings.pop("encoder", {}))
    return dataclasses.replace(CONFIG.model, encoder=encoder, **settings)


@functools.cache
def fresh_state(model: ModelConfig = CONFIG.model) -> TrainState:
    """Return a state with other numbers in every array; those of `init_state` would take seconds to compile."""
    key, rng = jax.random.key(0), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_state(build_model(model), 12, optax.adam(1e-3), key, with_ema=True))
    return jax.tree.map(lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype)), shapes)


def initial(model: ModelConfig = CONFIG.model, tokenizer=TOKENIZER) -> InitialModel:
    """Return a model whose arrays differ from those of every fresh state."""
    params = jax.tree.map(lambda x: np.asarray(x) + 7, fresh_state(model).params)
    return InitialModel("there", tokenizer, {"params": params})


def begin(given: InitialModel, model: ModelConfig = CONFIG.model, tokenizer=TOKENIZER):
    """Return a fresh state with the model's arrays, what the log says, and the names of the arrays taken over."""
    plan = plan_warm_start(given, fresh_state(model).params, tokenizer)
    names = set(plan.arrays)
    return plan.apply(fresh_state(model)), plan.lines, names


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with one checkpoint."""
    config = dataclasses.replace(CONFIG, runs_dir=str(tmp_path_factory.mktemp("runs")))
    run = create_run_dir(config, TOKENIZER, CMVN)
    CheckpointStore(run.checkpoints).save(1, fresh_state().replace(ema_params=initial().variables["params"]), {}, [0.5])
    return run.path


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    save_model_folder(folder, CONFIG, TOKENIZER, CMVN, initial().variables)
    return folder


@pytest.fixture
def write(tmp_path):
    def write(**sections):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(sections))
        return path

    return write


# --- the weights ---


@pytest.mark.parametrize("kind", ["run", "model_folder"])
def test_a_run_begins_with_all_arrays_of_a_run_or_a_model_folder(kind, request):
    """Its own prediction and its moving average are those of the model; the optimizer is fresh."""
    given = load_initial(str(request.getfixturevalue(kind)))
    assert given.tokenizer == TOKENIZER
    state, lines, _ = begin(given)
    for params in (state.params, state.variables["params"]):
        jax.tree.map(np.testing.assert_array_equal, params, initial().variables["params"])
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh_state().opt_state)
    assert state.step == fresh_state().step
    assert lines == [f"copied from {given.folder}: 68 of 68 arrays"]


def test_every_array_has_memory_of_its_own():
    """The train step takes over the memory of its arguments; two names for one array would be an error."""
    state, _, _ = begin(initial())
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)


def test_scanned_and_unrolled_encoders_begin_with_each_other():
    scanned = with_model(encoder={"scan": True})
    there, _, _ = begin(initial(), scanned)
    back, lines, _ = begin(InitialModel("there", TOKENIZER, {"params": there.params}))
    assert "blocks" in there.params["encoder"] and "68 of 68" in lines[0]
    jax.tree.map(np.testing.assert_array_equal, back.params, initial().variables["params"])


@pytest.mark.parametrize(
    ("texts", "reason"),
    [("abcde", "the vocabulary has 9 tokens, that of there 8"), ("abce", "token 6 is 'e', that of there 'd'")],
)
def test_other_tokens_have_new_arrays_and_the_log_says_so(texts, reason):
    tokenizer = build_tokenizer(TokenizerConfig(), [texts])
    model = with_model(vocab_size=tokenizer.vocab_size, ctc_head=True)
    given = initial(with_model(ctc_head=True))
    state, lines, taken = begin(given, model, tokenizer)
    arrays = named_arrays({"params": state.params})
    new = {
        name for name in arrays if name.startswith(("params/decoder/embedding", "params/decoder/output", "params/ctc"))
    }
    assert set(arrays) - taken == new and len(new) == 5
    for name, array in arrays.items():
        fresh = named_arrays({"params": fresh_state(model).params})[name]
        np.testing.assert_array_equal(array, fresh if name in new else named_arrays(given.variables)[name])
    shown = f"params/ctc/bias float32[{len(texts) + 4}], params/ctc/kernel"
    assert lines[1].startswith(f"new: {shown}") and reason in lines[1]


def test_a_ctc_head_that_one_side_has_is_new_or_left_out():
    plain, with_ctc = CONFIG.model, with_model(ctc_head=True)
    _, lines, taken = begin(initial(plain), with_ctc)
    assert lines[1] == "new: params/ctc/bias float32[8], params/ctc/kernel float32[4, 8]: there has no CTC head"
    assert "params/decoder/embedding" in taken
    _, lines, _ = begin(initial(with_ctc), plain)
    assert lines[1].startswith("not copied: params/ctc/bias float32[8], params/ctc/kernel float32[4, 8]")


def test_another_architecture_is_refused_and_every_array_named():
    model = with_model(encoder={"ffn_width": 8, "num_layers": 4})
    with pytest.raises(UserError, match="belongs to a different model") as error:
        begin(initial(), model)
    lines = str(error.value).splitlines()[1:-1]
    expected, found = named_arrays({"params": fresh_state(model).params}), named_arrays(initial().variables)
    differing = {n for n in expected.keys() | found.keys() if n not in found or expected[n].shape != found[n].shape}
    assert len(lines) == len(differing) == 3 * 3 + 13 and all(any(name in line for line in lines) for name in differing)
    assert "  only in this run: params/encoder/block3/qkv/kernel float32[4, 12]" in lines
    assert "  params/encoder/block0/ffn/expand/bias: expected float32[8], found float32[4]" in lines


# --- the settings, the tokenizer, the normalisation ---


def test_what_the_file_leaves_out_is_that_of_the_model(run, write):
    file = write(init=str(run), seed=5, model={"encoder": {"dropout": 0.5}}, features={"dither": 1.0})
    config = load_start_config(file, ["model.encoder.scan=true"])
    features = dataclasses.replace(CONFIG.features, dither=1.0, cmvn="init")
    model = with_model(vocab_size=0, encoder={"dropout": 0.5, "scan": True})
    tokenizer = TokenizerConfig(kind="init")
    assert config == Config(seed=5, init=str(run), model=model, features=features, tokenizer=tokenizer)


@pytest.mark.parametrize("stated", [("tokenizer.text_case=upper",), ("tokenizer.kind=characters",)])
def test_a_stated_tokenizer_is_built_from_the_texts(run, write, stated):
    config = load_start_config(write(init=str(run)), stated)
    assert config.tokenizer.kind == "characters"
    assert load_start_config(write(init=str(run), tokenizer={"kind": "characters"})).tokenizer == TokenizerConfig()


def test_the_settings_of_the_run_load_without_the_model(run, write, tmp_path):
    config = load_start_config(write(), [f"init={run}"])
    save_config(dataclasses.replace(config, init="nowhere"), tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == dataclasses.replace(config, init="nowhere")


def test_without_init_nothing_is_taken_over(write):
    file = write(seed=3, model={"ctc_head": True}, loss={"ctc_weight": 0.5})
    assert load_start_config(file, ["seed=4"]) == load_config(file, ["seed=4"])


@pytest.mark.parametrize("key", ["tokenizer.kind", "features.cmvn"])
def test_init_needs_a_model(write, key):
    with pytest.raises(UserError, match=f"{key}: init is that of the model .* name it by init=FOLDER"):
        load_config(write(), [f"{key}=init"])


@pytest.mark.parametrize("kind", ["run", "model_folder"])
def test_tokenizer_and_normalisation_are_those_of_the_model(kind, request, write):
    """Those of the data would be others: the toy data set has other letters, and sound of its own."""
    folder = request.getfixturevalue(kind)
    config = load_start_config(write(data={"toy": TOY}, init=str(folder)))
    assert config.data.toy == ToyConfig(**TOY)
    setup = build_setup(config, initial=load_initial(str(folder)))
    assert setup.tokenizer == TOKENIZER
    assert setup.config.model.vocab_size == TOKENIZER.vocab_size
    np.testing.assert_array_equal(setup.cmvn.shift, load_cmvn(folder / "cmvn.txt").shift)
    assert len(setup.warm_start.lines) == 1 and len(setup.warm_start.arrays) == 68


def arguments(**given):
    return argparse.Namespace(**{"config": None, "resume": None, "init": None, "overrides": []} | given)


def test_the_option_is_the_setting(run, write):
    config = read_config(arguments(config=write(), init=str(run)))
    assert config.init == str(run) and config.model.encoder == CONFIG.model.encoder


@pytest.mark.parametrize("given", [{"init": "x"}, {"overrides": ["init=x"]}])
def test_a_resumed_run_has_weights_of_its_own(run, given):
    with pytest.raises(UserError, match="--init starts a new run, so it needs --config"):
        read_config(arguments(resume=run, **given))


def test_a_folder_without_a_model_is_named(write, tmp_path):
    with pytest.raises(UserError, match="init: expected a run directory, or a folder written by asr.export or"):
        load_start_config(write(init=str(tmp_path / "nothing")))


@pytest.mark.parametrize("factor", [0, -1, 1e6])
def test_a_factor_is_above_0(write, factor):
    with pytest.raises(UserError, match=r"optimizer.rate_factors\[encoder\]: expected a factor above 0"):
        load_config(write(optimizer={"rate_factors": {"encoder": factor}}))


def test_factors_are_a_mapping(write):
    with pytest.raises(UserError, match=r"optimizer.rate_factors: expected a mapping such as {encoder: 0.1}"):
        load_config(write(optimizer={"rate_factors": 3}))
