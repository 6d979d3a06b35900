"""The predictor: its two forms, its range, its precision, and that padding does not reach it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.config import PredictorConfig
from asr.models.predictor import Predictor
from drawn import draw, draw_like

B, T, D = 2, 9, 6


@functools.cache
def run(module):
    """Return the compiled `module.apply`."""
    return jax.jit(module.apply, static_argnames=("train", "method", "num_rows"))


def start(**changes):
    predictor = Predictor(dataclasses.replace(PredictorConfig(), **changes))
    valid = np.arange(T) < np.array([[T], [5]])
    hidden = np.where(valid[..., None], draw(B, T, D), 0)
    shapes = jax.eval_shape(lambda: predictor.init({"params": jax.random.key(0)}, hidden, valid, train=False))
    return predictor, draw_like(shapes), hidden, valid


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_weights_lie_between_0_and_1_and_are_0_in_padding(kind):
    predictor, variables, hidden, valid = start(kind=kind)
    alpha = np.asarray(run(predictor)(variables, hidden, valid, train=False))
    assert alpha.shape == (B, T, 1) and alpha.dtype == jnp.float32
    assert (alpha[..., 0] > 0).tolist() == valid.tolist() and (alpha < 1).all()


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_the_window_reaches_one_frame_to_each_side(kind):
    predictor, variables, hidden, _ = start(kind=kind)
    valid = np.ones((1, T), bool)
    alpha = lambda h: predictor.apply(variables, h, valid, train=False)[0, :, 0]  # noqa: E731
    influence_tj = np.abs(jax.jit(jax.jacobian(alpha))(hidden[:1] + np.float32(0.1))[:, 0]).sum(-1) > 0
    near_tj = np.abs(np.arange(T)[:, None] - np.arange(T)) <= 1
    assert not (influence_tj & ~near_tj).any() and influence_tj[4, 3:6].all()


def test_the_depthwise_form_by_hand():
    predictor, variables, hidden, valid = start(kind="depthwise")
    p = variables["params"]
    padded = np.pad(hidden, ((0, 0), (1, 1), (0, 0)))
    mixed = sum(p["conv_kernel"][i] * padded[:, i : i + T] for i in range(3)) + p["conv_bias"]
    h = np.maximum(mixed + hidden, 0)
    expected = 1 / (1 + np.exp(-(h @ p["kernel"] + p["bias"])))
    alpha = run(predictor)(variables, hidden, valid, train=False)
    np.testing.assert_allclose(alpha, np.where(valid[..., None], expected, 0), atol=1e-6)


def test_smooth_factor_and_noise_threshold():
    predictor, variables, hidden, valid = start()
    plain = np.asarray(run(predictor)(variables, hidden, valid, train=False))
    changed = run(start(smooth_factor=0.5, noise_threshold=0.2)[0])(variables, hidden, valid, train=False)
    np.testing.assert_allclose(changed, np.where(valid[..., None], np.maximum(0.5 * plain - 0.2, 0), 0), atol=1e-6)


def test_bfloat16_frames_are_weighted_in_float32():
    predictor, variables, hidden, valid = start(initial_bias=-1.5)
    half = hidden.astype(jnp.bfloat16)
    alpha = run(predictor)(variables, half, valid, train=False)
    assert alpha.dtype == jnp.float32
    np.testing.assert_array_equal(alpha, run(predictor)(variables, half.astype(np.float32), valid, train=False))
