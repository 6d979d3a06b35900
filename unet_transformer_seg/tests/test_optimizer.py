"""Schedules, weight decay, clipping, and parameters that are treated by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seg.checkpoints.arrays import named_arrays
from seg.config import ModelConfig, OptimizerConfig, TransformerConfig
from seg.models import build_model
from seg.training.optimizer import build_optimizer, build_schedule, decayed


@pytest.mark.parametrize("name", ["cosine", "poly", "constant"])
def test_warm_up_rises_linearly_to_the_peak(name):
    schedule = build_schedule(OptimizerConfig(learning_rate=2.0, schedule=name, warmup_fraction=0.1), 100)
    np.testing.assert_allclose([schedule(i) for i in range(10)], np.arange(1, 11) / 10 * 2.0, rtol=1e-6)
    assert schedule(10) == pytest.approx(2.0)


def test_schedules_follow_their_equations_after_the_warm_up():
    progress = (60 - 10) / 90
    expected = {"cosine": (1 + np.cos(np.pi * progress)) / 2, "poly": (1 - progress) ** 0.9, "constant": 1.0}
    for name, value in expected.items():
        schedule = build_schedule(OptimizerConfig(learning_rate=1.0, schedule=name, warmup_fraction=0.1), 100)
        assert schedule(60) == pytest.approx(value, rel=1e-5), name


def test_no_warm_up_starts_at_the_peak():
    assert build_schedule(OptimizerConfig(learning_rate=0.5, warmup_fraction=0.0), 10)(0) == pytest.approx(0.5)


def test_weight_decay_spares_norms_and_biases_and_nothing_else():
    transformer = TransformerConfig(num_layers=2, num_heads=2, position="learned")
    config = ModelConfig(num_classes=3, base_width=8, depth=2, transformer=transformer)
    init = lambda: build_model(config).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)  # noqa: E731
    params = jax.eval_shape(init)["params"]
    by_name = {}
    for path, value in jax.tree_util.tree_leaves_with_path(decayed(params)):
        by_name.setdefault(path[-1].key, set()).add(value)
    assert by_name == {"kernel": {True}, "table": {True}, "scale": {False}, "bias": {False}}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_decay_alone_shrinks_kernels_and_leaves_biases(name):
    optimizer = build_optimizer(
        OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.5, schedule="constant", warmup_fraction=0.0), 10
    )
    params = {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    assert (moved["conv"]["kernel"] < 1).all()
    np.testing.assert_array_equal(moved["conv"]["bias"], 1)


def test_gradients_are_clipped_by_their_global_norm():
    config = OptimizerConfig(
        name="sgd",
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        warmup_fraction=0.0,
        clip_norm=1.0,
    )
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    optimizer = build_optimizer(config, 10)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-0.6, -0.8], rtol=1e-5)


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


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_frozen_parameters_keep_every_bit_and_the_others_move_as_if_alone(name):
    """Clipping counts the gradient of the others only, and no moment of a frozen parameter is kept."""
    moved, state = one_update(PARAMS, name=name, weight_decay=0.5, freeze=("encoder",))
    assert moved["encoder"]["kernel"].tobytes() == PARAMS["encoder"]["kernel"].tobytes()
    alone, _ = one_update({"head": PARAMS["head"]}, name=name, weight_decay=0.5)
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
