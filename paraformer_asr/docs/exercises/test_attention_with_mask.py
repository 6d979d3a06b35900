"""Attention: a loop over heads and queries, what is masked, empty rows, large scores, gradients."""

import attention_with_mask
import jax
import numpy as np
import pytest

B, T, J, A, E = 2, 3, 5, 2, 4


def draw(scale=1.0):
    """Return queries, keys and values."""
    rng = np.random.default_rng(0)
    return [(scale * rng.normal(size=(B, n, A, E))).astype(np.float32) for n in (T, J, J)]


def loop(q, k, v, mask):
    """Return the definition, row by row."""
    out = np.zeros((B, T, A, E))
    for b, t, a in np.ndindex(B, T, A):
        seen = np.flatnonzero(mask[b, t if mask.shape[1] > 1 else 0])
        if len(seen):
            scores = np.float64(k[b, seen, a]) @ q[b, t, a] / np.sqrt(E)
            weights = np.exp(scores - scores.max())
            out[b, t, a] = weights / weights.sum() @ v[b, seen, a]
    return out


@pytest.mark.parametrize("rows", [1, T])
def test_it_is_the_loop(rows):
    """With a mask for each query, and with one for all of them."""
    mask = np.random.default_rng(1).random((B, rows, J)) < 0.6
    np.testing.assert_allclose(attention_with_mask.attention(*draw(), mask), loop(*draw(), mask), atol=1e-5)


def test_a_query_without_a_frame_gets_zero():
    """Not NaN, and not the mean of what it may not see."""
    mask = np.ones((B, T, J), bool)
    mask[0, 1] = False
    out = np.asarray(attention_with_mask.attention(*draw(), mask))
    assert not out[0, 1].any() and np.isfinite(out).all() and out[0, 0].any()


def test_large_scores_do_not_overflow():
    """The largest score is subtracted before the exponential."""
    mask = np.ones((B, 1, J), bool)
    out = attention_with_mask.attention(*draw(60.0), mask)
    np.testing.assert_allclose(out, loop(*draw(60.0), mask), atol=1e-3)


def test_no_gradient_reaches_what_is_masked_and_none_is_nan():
    """Also where a row of the mask is empty."""
    mask = np.arange(J) < np.array([3, 0])[:, None, None]
    q, k, v = draw()

    def total(k, v):
        return (attention_with_mask.attention(q, k, v, mask) ** 2).sum()

    for gradient in map(np.asarray, jax.grad(total, argnums=(0, 1))(k, v)):
        assert np.isfinite(gradient).all()
        assert gradient[0, :3].any() and not gradient[0, 3:].any() and not gradient[1].any()
