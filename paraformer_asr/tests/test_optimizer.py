"""Schedules, weight decay, clipping, and parameters that are treated by themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asr.checkpoints.arrays import named_arrays
from asr.config import DecoderConfig, EncoderConfig, ModelConfig, OptimizerConfig
from asr.models import build_model
from asr.training.optimizer import build_optimizer, build_schedule, decayed
from asr.training.state import init_state

PLAIN = OptimizerConfig(learning_rate=1.0, schedule="constant", warmup_fraction=0.0, weight_decay=0.0, clip_norm=0.0)


@pytest.mark.parametrize("name", ["cosine", "inverse_sqrt", "constant"])
def test_warm_up_rises_linearly_to_the_peak(name):
    schedule = build_schedule(OptimizerConfig(learning_rate=2.0, schedule=name, warmup_fraction=0.1), 100)
    np.testing.assert_allclose([schedule(i) for i in range(10)], np.arange(1, 11) / 10 * 2.0, rtol=1e-6)
    assert schedule(10) == pytest.approx(2.0)


def test_schedules_follow_their_equations_after_the_warm_up():
    progress = (60 - 10) / 90
    expected = {"cosine": (1 + np.cos(np.pi * progress)) / 2, "inverse_sqrt": np.sqrt(10 / 60), "constant": 1.0}
    for name, value in expected.items():
        schedule = build_schedule(OptimizerConfig(learning_rate=1.0, schedule=name, warmup_fraction=0.1), 100)
        assert schedule(60) == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("name", ["cosine", "inverse_sqrt", "constant"])
def test_no_warm_up_starts_at_the_peak(name):
    config = OptimizerConfig(learning_rate=0.5, schedule=name, warmup_fraction=0.0)
    assert build_schedule(config, 10)(0) == pytest.approx(0.5)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("kind", ["sanm", "conformer"])
def test_weight_decay_spares_norms_and_biases_and_nothing_else(kind, scan):
    encoder = EncoderConfig(kind=kind, num_layers=3, width=8, num_heads=2, ffn_width=8, kernel_size=3, scan=scan)
    decoder = DecoderConfig(num_layers=1, num_heads=2, ffn_width=8, kernel_size=3)
    model = build_model(ModelConfig(vocab_size=7, ctc_head=True, encoder=encoder, decoder=decoder))
    params = jax.eval_shape(lambda: init_state(model, 6, optax.identity(), jax.random.key(0), False)).params
    for path, applies in jax.tree_util.tree_leaves_with_path(decayed(params)):
        name = path[-1].key
        spared = {"scale", "bias"} & set(name.split("_"))
        assert applies == (not spared), jax.tree_util.keystr(path)
        assert spared or {"kernel", "embedding"} & set(name.split("_")), f"{name}: is it to be decayed?"


def test_decay_alone_shrinks_kernels_and_leaves_biases():
    optimizer = build_optimizer(dataclasses.replace(PLAIN, learning_rate=0.1, weight_decay=0.5), 10)
    params = {"conv": {"kernel": jnp.ones((2, 2)), "conv_bias": jnp.ones(2), "scale": jnp.ones(3)}}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_allclose(moved["conv"]["kernel"], 1 - 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(moved["conv"]["conv_bias"], 1)
    np.testing.assert_array_equal(moved["conv"]["scale"], 1)


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.0, (30.0, 40.0)), (1.0, (0.6, 0.8)), (100.0, (30.0, 40.0))])
def test_gradients_are_clipped_by_their_global_norm(clip_norm, expected):
    """The first moment is (1 − b1) times what the chain hands on to Adam."""
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    optimizer = build_optimizer(dataclasses.replace(PLAIN, clip_norm=clip_norm, b1=0.9), 10)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose([state[1].mu["a"][0], state[1].mu["b"][0]], 0.1 * np.array(expected), rtol=1e-5)


# --- parameters that are treated by themselves ---

PARAMS = {"encoder": {"kernel": jnp.array([1.0, -0.0, 3.0])}, "head": {"kernel": jnp.array([3.0, 4.0])}}


def one_update(params, **settings):
    """Return what `params` become where every gradient is 10, and the optimizer's state."""
    optimizer = build_optimizer(OptimizerConfig(learning_rate=0.1, warmup_fraction=0.0, **settings), 10)
    grads = jax.tree.map(lambda x: jnp.full_like(x, 10.0), params)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    return optax.apply_updates(params, updates), state


def test_without_such_settings_the_state_has_the_arrays_that_checkpoints_have():
    names = {"1/count", "3/count"} | {f"1/{m}/{p}/kernel" for m in ("mu", "nu") for p in PARAMS}
    assert set(named_arrays(one_update(PARAMS)[1])) == names


def test_frozen_parameters_keep_every_bit_and_the_others_move_as_if_alone():
    """Clipping counts the gradient of the others only, and no moment of a frozen parameter is kept."""
    moved, state = one_update(PARAMS, weight_decay=0.5, freeze=("encoder",))
    assert moved["encoder"]["kernel"].tobytes() == PARAMS["encoder"]["kernel"].tobytes()
    alone, _ = one_update({"head": PARAMS["head"]}, weight_decay=0.5)
    np.testing.assert_array_equal(moved["head"]["kernel"], alone["head"]["kernel"])
    assert (moved["head"]["kernel"] != PARAMS["head"]["kernel"]).all()
    assert not [array for array in named_arrays(state) if "encoder" in array]
    assert [array for array in named_arrays(state) if "head" in array]


def test_a_factor_multiplies_the_whole_update():
    """Adam's step and the decay alike, however large the gradient."""
    plain, _ = one_update(PARAMS, weight_decay=0.5)
    moved, _ = one_update(PARAMS, weight_decay=0.5, rate_factors={"encoder": 0.25})
    np.testing.assert_array_equal(moved["head"]["kernel"], plain["head"]["kernel"])
    old = PARAMS["encoder"]["kernel"]
    expected = old + 0.25 * (plain["encoder"]["kernel"] - old)
    np.testing.assert_allclose(moved["encoder"]["kernel"], expected, rtol=1e-6)


def test_frozen_parameters_may_stand_beside_slow_ones():
    params = {**PARAMS, "decoder": {"kernel": jnp.ones(2)}}
    moved, _ = one_update(params, freeze=("encoder",), rate_factors={"head": 0.5, "encoder": 7.0})
    assert moved["encoder"]["kernel"].tobytes() == PARAMS["encoder"]["kernel"].tobytes()
    steps = jax.tree.map(lambda new, old: (old - new)[0], moved, params)
    assert 0 < steps["head"]["kernel"] < steps["decoder"]["kernel"]
