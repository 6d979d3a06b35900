"""Attention: against a loop, its masks, its other implementations, its dropout."""

import jax
import numpy as np
import pytest

from asr.ops import attention as attention_ops
from asr.ops.attention import attention, attention_weights, causal_mask, padding_mask
from drawn import draw

B, T, J, A, E = 2, 5, 7, 2, 4


@pytest.fixture
def heads():
    return draw(B, T, A, E), *(draw(B, J, A, E, seed=seed) for seed in (1, 2))


def full_mask():
    return np.ones((B, 1, J), bool)


def loop_attention(q, k, v, mask):
    out = np.zeros((B, q.shape[1], A, E))
    for b, t, a in np.ndindex(B, q.shape[1], A):
        row = mask[b, t if mask.shape[1] > 1 else 0]
        scores = [np.dot(q[b, t, a], k[b, j, a]) / np.sqrt(E) for j in range(k.shape[1]) if row[j]]
        if scores:
            weights = np.exp(scores) / np.exp(scores).sum()
            out[b, t, a] = weights @ np.stack([v[b, j, a] for j in range(k.shape[1]) if row[j]])
    return out


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
@pytest.mark.parametrize("rows", [1, T])
def test_equals_the_loop(heads, implementation, rows):
    mask = np.random.default_rng(3).random((B, rows, J)) < 0.6
    mask[0, 0] = False
    expected = loop_attention(*(np.asarray(x, np.float64) for x in heads), np.asarray(mask))
    np.testing.assert_allclose(attention(*heads, mask, implementation=implementation), expected, atol=1e-5)


def test_masked_frames_get_no_weight_and_no_gradient(heads):
    mask = np.arange(J) < np.full((B, 1, 1), 4)
    weights = np.asarray(attention_weights(heads[0], heads[1], mask))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert not weights[..., 4:].any()
    gradient = np.asarray(jax.jit(jax.grad(lambda k: attention(heads[0], k, heads[2], mask).sum()))(heads[1]))
    assert not gradient[:, 4:].any() and gradient[:, :4].any()


def test_the_masks_as_matrices():
    valid = np.array([[True, True, True], [True, True, False]])
    np.testing.assert_array_equal(padding_mask(valid)[1], [[1, 1, 0]])
    np.testing.assert_array_equal(
        jax.jit(causal_mask)(valid), [[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 0], [1, 1, 0]]]
    )


def test_dropout_of_the_weights_keeps_the_mean(heads, keys):
    exact = attention(*heads, full_mask())
    sampled = np.stack([attention(*heads, full_mask(), dropout_rate=0.3, dropout_key=keys()) for _ in range(60)])
    assert not np.allclose(sampled[0], sampled[1])
    np.testing.assert_allclose(np.mean(sampled, 0), exact, atol=0.45)
    np.testing.assert_array_equal(attention(*heads, full_mask(), dropout_rate=0.3), exact)  # no key: inference


def test_dropout_needs_the_explicit_form(heads, key):
    with pytest.raises(ValueError, match="explicit"):
        attention(*heads, full_mask(), implementation="xla", dropout_rate=0.1, dropout_key=key)


def test_without_the_packages_for_gpus_cudnn_falls_back_with_a_warning(heads, monkeypatch):
    monkeypatch.setattr(attention_ops, "has_cudnn", lambda: False)
    with pytest.warns(RuntimeWarning, match="needs jax's packages for NVIDIA GPUs"):
        out = attention(*heads, full_mask(), implementation="cudnn")
    np.testing.assert_array_equal(out, attention(*heads, full_mask()))
    with pytest.raises(ValueError, match="flash"):
        attention(*heads, full_mask(), implementation="flash")


def test_contracts(heads):
    with pytest.raises(AssertionError):
        attention(*heads, np.ones((B, T + 1, J), bool))
    with pytest.raises(AssertionError):
        attention(*heads, np.ones((B, 1, J)))
