"""The compiled gradient of a small network of all kinds of layers, against the slope of a copy in numpy.

A compiler that gets the gradient wrong is seen here without another framework to compare with.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.ops import cif
from asr.ops.attention import attention, padding_mask
from asr.ops.conv import fsmn_memory
from asr.ops.masks import length_mask
from asr.ops.norm import layer_norm

B, T, D, HEADS, TAPS = 2, 9, 8, 2, 3
FRAMES, TOKENS = np.array([T, 6], np.int32), np.array([4, 2], np.int32)
SHAPES = {"x": (B, T, D), "scale": (D,), "bias": (D,), "qkv": (D, 3 * D), "memory": (TAPS, D), "weight": (D,)}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.5, shape) for name, shape in SHAPES.items()}


PROBE_BUD = np.random.default_rng(2).normal(size=(B, max(TOKENS), D))


def score(params):
    """Norm, attention with a memory of the values, weights, integrate-and-fire: one SAN-M block and the predictor."""
    valid_bt = length_mask(FRAMES, T)
    normal_btd = layer_norm(params["x"], params["scale"], params["bias"])
    q_btd, k_btd, v_btd = jnp.split(normal_btd @ params["qkv"], 3, axis=-1)
    heads = (y.reshape(B, T, HEADS, -1) for y in (q_btd, k_btd, v_btd))
    attended_btd = attention(*heads, padding_mask(valid_bt)).reshape(B, T, D)
    hidden_btd = attended_btd + fsmn_memory(v_btd, params["memory"], valid_bt, left=1)
    alpha_bt = jnp.where(valid_bt, jax.nn.sigmoid(hidden_btd @ params["weight"]), 0)
    alignment_but = cif.align(cif.scaled_cumulative(alpha_bt, valid_bt, TOKENS), max(TOKENS))
    return (cif.integrate(alignment_but, hidden_btd) * PROBE_BUD.astype(np.float32)).sum()


def score_of_one(params, b):
    """Return what utterance `b` adds to the score, in float64, without its padding."""
    x = params["x"][b, : FRAMES[b]]
    centred = x - x.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True)) * params["scale"] + params["bias"]
    q, k, v = (np.split(y, HEADS, axis=1) for y in np.split(normal @ params["qkv"], 3, axis=1))
    weights = [np.exp(q[a] @ k[a].T / np.sqrt(D / HEADS)) for a in range(HEADS)]
    hidden = np.hstack([w / w.sum(1, keepdims=True) @ v[a] for a, w in enumerate(weights)])
    padded, v = np.pad(np.hstack(v), ((1, 1), (0, 0))), np.hstack(v)
    hidden = hidden + v + sum(params["memory"][i] * padded[i : i + len(v)] for i in range(TAPS))
    ends = np.cumsum(1 / (1 + np.exp(-hidden @ params["weight"])))
    ends *= TOKENS[b] / ends[-1]
    starts, u = np.append(0, ends[:-1]), np.arange(TOKENS[b])[:, None]
    alignment = np.maximum(np.minimum(ends, u + 1) - np.maximum(starts, u), 0)
    return (alignment @ hidden * PROBE_BUD[b, : TOKENS[b]]).sum()


def slow_score(params):
    return sum(score_of_one(params, b) for b in range(B))


@pytest.fixture(scope="module")
def value_and_gradient():
    params = {name: array.astype(np.float32) for name, array in draw(0).items()}
    return jax.device_get(jax.jit(jax.value_and_grad(score))(params))


def test_the_value_is_that_of_the_copy(value_and_gradient):
    assert value_and_gradient[0] == pytest.approx(slow_score(draw(0)), rel=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_the_gradient_is_the_slope_of_the_copy(value_and_gradient, name):
    gradient, step = value_and_gradient[1][name], 1e-6
    for direction in (draw(seed)[name] for seed in (3, 4, 5)):
        up, down = (slow_score(draw(0) | {name: draw(0)[name] + h * direction}) for h in (step, -step))
        slope, scale = (up - down) / (2 * step), np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs((gradient * direction).sum() - slope) < 1e-3 * scale
