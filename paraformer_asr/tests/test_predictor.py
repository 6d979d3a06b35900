"""The predictor: its two forms, its range, its precision, and that padding does not reach it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.config import PredictorConfig
from asr.models.predictor import Predictor
from asr.ops.masks import length_mask

B, T, D = 2, 9, 6


@functools.cache
def run(module):
    """Return the compiled `module.apply`."""
    return jax.jit(module.apply, static_argnames=("train", "method", "num_rows"))


def start(key, **changes):
    predictor = Predictor(dataclasses.replace(PredictorConfig(), **changes))
    valid = length_mask(jnp.array([T, 5]), T)
    hidden = jnp.where(valid[..., None], jax.random.normal(key, (B, T, D)), 0)
    return predictor, jax.jit(lambda: predictor.init({"params": key}, hidden, valid, train=False))(), hidden, valid


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_weights_lie_between_0_and_1_and_are_0_in_padding(key, kind):
    predictor, variables, hidden, valid = start(key, kind=kind)
    alpha = run(predictor)(variables, hidden, valid, train=False)
    assert alpha.shape == (B, T, 1) and alpha.dtype == jnp.float32
    assert (alpha[..., 0] > 0).tolist() == valid.tolist() and (alpha < 1).all()


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_the_window_reaches_one_frame_to_each_side(key, kind):
    predictor, variables, hidden, _ = start(key, kind=kind)
    valid = jnp.ones((1, T), bool)
    jacobian = jax.jacobian(lambda h: run(predictor)(variables, h, valid, train=False)[0, :, 0])(hidden[:1] + 0.1)
    influence_tj = np.abs(jacobian[:, 0]).sum(-1) > 0
    near_tj = np.abs(np.arange(T)[:, None] - np.arange(T)) <= 1
    assert not (influence_tj & ~near_tj).any() and influence_tj[4, 3:6].all()


def test_the_depthwise_form_by_hand(key):
    predictor, variables, hidden, valid = start(key, kind="depthwise")
    p = variables["params"]
    padded = np.pad(np.asarray(hidden), ((0, 0), (1, 1), (0, 0)))
    mixed = sum(np.asarray(p["conv_kernel"])[i] * padded[:, i : i + T] for i in range(3)) + np.asarray(p["conv_bias"])
    h = np.maximum(mixed + np.asarray(hidden), 0)
    expected = 1 / (1 + np.exp(-(h @ np.asarray(p["kernel"]) + np.asarray(p["bias"]))))
    alpha = run(predictor)(variables, hidden, valid, train=False)
    np.testing.assert_allclose(alpha, np.where(valid[..., None], expected, 0), atol=1e-6)


def test_smooth_factor_and_noise_threshold(key):
    predictor, variables, hidden, valid = start(key)
    plain = np.asarray(run(predictor)(variables, hidden, valid, train=False))
    changed = start(key, smooth_factor=0.5, noise_threshold=0.2)[0].apply(variables, hidden, valid, train=False)
    np.testing.assert_allclose(changed, np.where(valid[..., None], np.maximum(0.5 * plain - 0.2, 0), 0), atol=1e-6)


def test_bfloat16_frames_are_weighted_in_float32(key):
    predictor, variables, hidden, valid = start(key, initial_bias=-1.5)
    half = hidden.astype(jnp.bfloat16)
    alpha = run(predictor)(variables, half, valid, train=False)
    assert alpha.dtype == jnp.float32
    np.testing.assert_array_equal(alpha, run(predictor)(variables, half.astype(jnp.float32), valid, train=False))
