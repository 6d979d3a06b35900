"""Beginning with the weights of another model: what is taken over, what is new, what is refused, and who is asked."""

import argparse
import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
import yaml

from seg.api import load_initial
from seg.checkpoints import CheckpointStore
from seg.checkpoints.arrays import named_arrays
from seg.classes import make_class_table
from seg.config import Config, DataConfig, ModelConfig, TransformerConfig
from seg.config.reader import load_config, load_start_config, save_config
from seg.errors import UserError
from seg.inference.model_folder import save_model_folder
from seg.models import build_model, smallest_image
from seg.record.run_dir import create_run_dir
from seg.train import read_config
from seg.training.state import TrainState, init_state
from seg.training.warm_start import InitialModel, plan_warm_start

CLASSES = make_class_table(("sky", "road", "tree"))
CONFIG = Config(
    model=ModelConfig(
        num_classes=3, base_width=2, depth=1, transformer=TransformerConfig(num_layers=1, num_heads=1, dropout=0.25)
    ),
    data=DataConfig(size=(8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
)


def with_model(**settings):
    return dataclasses.replace(CONFIG.model, **settings)


@functools.cache
def fresh_state(model: ModelConfig = CONFIG.model) -> TrainState:
    """Return a state with other numbers in every array; those of `init_state` would take seconds to compile."""
    key, rng = jax.random.key(0), np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda: init_state(build_model(model), smallest_image(model), optax.adam(1e-3), key, with_ema=True)
    )
    return jax.tree.map(lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype)), shapes)


def initial(model: ModelConfig = CONFIG.model, classes=CLASSES) -> InitialModel:
    """Return a model whose arrays differ from those of every fresh state."""
    variables = {"params": fresh_state(model).params, "batch_stats": fresh_state(model).batch_stats}
    return InitialModel("there", classes, jax.tree.map(lambda x: np.asarray(x) + 7, variables))


def begin(given: InitialModel, model: ModelConfig = CONFIG.model, classes=CLASSES):
    """Return a fresh state with the model's arrays, what the log says, and the names of the arrays taken over."""
    plan = plan_warm_start(given, fresh_state(model), classes)
    names = set(plan.arrays)
    return plan.apply(fresh_state(model)), plan.lines, names


def names_of(state: TrainState) -> dict:
    return named_arrays({"params": state.params, "batch_stats": state.batch_stats})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with one checkpoint."""
    run = create_run_dir(dataclasses.replace(CONFIG, runs_dir=str(tmp_path_factory.mktemp("runs"))), CLASSES)
    given = initial().variables
    state = fresh_state().replace(ema_params=given["params"], ema_batch_stats=given["batch_stats"])
    CheckpointStore(run.checkpoints).save(1, state, {}, best=True)
    return run.path


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    save_model_folder(folder, CONFIG, CLASSES, initial().variables)
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
    assert given.classes == CLASSES
    state, lines, _ = begin(given)
    for variables in ({"params": state.params, "batch_stats": state.batch_stats}, state.variables):
        jax.tree.map(np.testing.assert_array_equal, variables, initial().variables)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh_state().opt_state)
    assert state.step == fresh_state().step
    assert lines == [f"copied from {given.folder}: 51 of 51 arrays"]


def test_behind_an_encoder_alone_all_else_is_new():
    """Whatever the decoder, the transformer and the classes are."""
    everything = initial().variables
    alone = {kind: {"encoder": tree["encoder"]} for kind, tree in everything.items()}
    wider = dataclasses.replace(CONFIG.model, transformer=TransformerConfig(num_layers=2, num_heads=2))
    state, lines, names = begin(
        InitialModel("there", None, alone), model=wider, classes=make_class_table(("a", "b", "c"))
    )
    assert names == {name for name in names_of(state) if "/encoder/" in name}
    for name, array in names_of(state).items():
        expected = named_arrays(alone)[name] if name in names else names_of(fresh_state(wider))[name]
        np.testing.assert_array_equal(array, expected)
    new = len(names_of(state)) - len(names)
    assert lines == [
        f"copied from there: {len(names)} of {len(names_of(state))} arrays",
        f"new: all {new} arrays outside the encoder",
    ]


def test_an_encoder_of_another_kind_is_refused():
    alone = {kind: {"encoder": tree["encoder"]} for kind, tree in initial(with_model(base_width=4)).variables.items()}
    with pytest.raises(UserError, match="init: there belongs to a different model"):
        begin(InitialModel("there", None, alone))


def test_another_normalisation_of_images_gets_a_line():
    def lines(**data):
        given = dataclasses.replace(initial(), data=CONFIG.data)
        return plan_warm_start(given, fresh_state(), CLASSES, dataclasses.replace(CONFIG.data, **data)).lines

    assert len(lines()) == 1
    (_, line) = lines(std=(0.5, 0.5, 0.5))
    assert "data.std are [0.0, 0.0, 0.0] and [0.5, 0.5, 0.5]" in line and "expect [0.0, 0.0, 0.0] and [1.0," in line


def test_every_array_has_memory_of_its_own():
    """The train step takes over the memory of its arguments; two names for one array would be an error."""
    state, _, _ = begin(initial())
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("sky", "road", "tree", "car"), "the data set has 4 classes, there has 3"),
        (("sky", "tree", "road"), "class 1 is 'tree' in the data set and 'road' in there"),
    ],
)
def test_other_classes_have_new_heads_and_the_log_says_so(names, reason):
    model, classes = with_model(num_classes=len(names)), make_class_table(names)
    state, lines, taken = begin(initial(), model, classes)
    heads = {name for name in names_of(state) if name.startswith("params/heads/")}
    assert set(names_of(state)) - taken == heads and len(heads) == 2
    for name, array in names_of(state).items():
        fresh, given = names_of(fresh_state(model))[name], named_arrays(initial().variables)[name]
        np.testing.assert_array_equal(array, fresh if name in heads else given)
    assert lines[1].startswith(f"new: params/heads/pixel/bias float32[{len(names)}], params/heads/pixel/kernel")
    assert reason in lines[1]


def test_heads_for_deep_supervision_are_new_or_left_out():
    plain, deep = with_model(depth=2), with_model(depth=2, deep_supervision=True)
    _, lines, taken = begin(initial(plain), deep)
    assert "new: params/heads/auxiliary1/bias" in lines[1] and "params/heads/pixel/kernel" in taken
    _, lines, _ = begin(initial(deep), plain)
    assert "not copied: params/heads/auxiliary1/bias" in lines[1]


def test_another_architecture_is_refused_and_every_array_named():
    model = with_model(base_width=4, transformer=dataclasses.replace(CONFIG.model.transformer, position="learned"))
    with pytest.raises(UserError, match="belongs to a different model") as error:
        begin(initial(), model)
    lines = str(error.value).splitlines()[1:-1]
    expected, found = names_of(fresh_state(model)), named_arrays(initial().variables)
    differing = {n for n in expected.keys() | found.keys() if n not in found or expected[n].shape != found[n].shape}
    assert len(lines) == len(differing) > 30 and all(any(name in line for line in lines) for name in differing)
    assert "  only in this run: params/bottleneck/positions/table float32[16, 16, 8]" in lines
    assert "  params/encoder/stage0/conv1/kernel: expected float32[3, 3, 3, 4], found float32[3, 3, 3, 2]" in lines


# --- the settings ---


def test_what_the_file_leaves_out_is_that_of_the_model(run, write):
    file = write(
        init=str(run), seed=5, model={"dropout": 0.5, "transformer": {"attention": "xla"}}, data={"fit": "crop"}
    )
    config = load_start_config(file, ["model.remat=true"])
    transformer = dataclasses.replace(CONFIG.model.transformer, attention="xla")
    changes = {"dropout": 0.5, "transformer": transformer, "remat": True}
    assert config.model == with_model(num_classes=0, **changes)
    data = DataConfig(fit="crop", mean=CONFIG.data.mean, std=CONFIG.data.std)
    assert config == Config(seed=5, init=str(run), model=config.model, data=data)


@pytest.mark.parametrize(
    "scaling",
    [{"normalise": "image"}, {"range": "percentiles", "channel_ranges": ((0.0, 9.0), (1.0, 9.0), (2.0, 9.0))}],
)
def test_images_are_scaled_as_for_the_model(write, tmp_path, scaling):
    """Its mean and deviation are those of values that were scaled in this way."""
    data = dataclasses.replace(CONFIG.data, precision="float32", **scaling)
    (tmp_path / "model").mkdir()
    save_config(dataclasses.replace(CONFIG, data=data), tmp_path / "model" / "config.yaml")
    config = load_start_config(write(init=str(tmp_path / "model")))
    assert {name: getattr(config.data, name) for name in scaling} == scaling


def test_another_kind_of_normalisation_is_said():
    given = dataclasses.replace(initial(), data=dataclasses.replace(CONFIG.data, normalise="image"))
    lines = plan_warm_start(given, fresh_state(), CLASSES, CONFIG.data).lines
    assert any("data.normalise is data_set, but the weights of there expect image" in line for line in lines)
    same = plan_warm_start(dataclasses.replace(initial(), data=CONFIG.data), fresh_state(), CLASSES, CONFIG.data).lines
    assert not any("normalise" in line or "data.mean" in line for line in same)


def test_the_settings_of_the_run_load_without_the_model(run, write, tmp_path):
    config = load_start_config(write(), [f"init={run}"])
    save_config(dataclasses.replace(config, init="nowhere"), tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == dataclasses.replace(config, init="nowhere")


def test_without_init_nothing_is_taken_over(write):
    file = write(seed=3, model={"depth": 2})
    assert load_start_config(file, ["seed=4"]) == load_config(file, ["seed=4"])


def arguments(**given):
    return argparse.Namespace(**{"config": None, "resume": None, "init": None, "overrides": []} | given)


def test_the_option_is_the_setting(run, write):
    config = read_config(arguments(config=write(), init=str(run)))
    assert config.init == str(run) and config.model.base_width == CONFIG.model.base_width


@pytest.mark.parametrize("given", [{"init": "x"}, {"overrides": ["init=x"]}])
def test_a_resumed_run_has_weights_of_its_own(run, given):
    with pytest.raises(UserError, match="--init starts a new run, so it needs --config"):
        read_config(arguments(resume=run, **given))


def test_a_folder_without_a_model_is_named(write, tmp_path):
    with pytest.raises(UserError, match="init: expected a run directory, or a folder written by seg.export or"):
        load_start_config(write(init=str(tmp_path / "nothing")))


@pytest.mark.parametrize("factor", [0, -1, 1e6])
def test_a_factor_is_above_0(write, factor):
    with pytest.raises(UserError, match=r"optimizer.rate_factors\[encoder\]: expected a factor above 0"):
        load_config(write(optimizer={"rate_factors": {"encoder": factor}}))


def test_factors_are_a_mapping(write):
    with pytest.raises(UserError, match=r"optimizer.rate_factors: expected a mapping such as {encoder: 0.1}"):
        load_config(write(optimizer={"rate_factors": 3}))
