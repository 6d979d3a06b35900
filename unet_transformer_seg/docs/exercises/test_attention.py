"""Attention against loops over batch, heads and tokens; masks by value and by gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from attention import attention

B, S, J, A, E = 2, 3, 4, 2, 3
RNG = np.random.default_rng(0)
Q, K, V = (jnp.asarray(RNG.standard_normal((B, n, A, E)), jnp.float32) for n in (S, J, J))
MASK = jnp.asarray(RNG.random((B, S, J)) < 0.6).at[:, :, 0].set(True).at[0, 1].set(False)
"""Token 1 of image 0 may attend to nothing; every other token to token 0 at least."""


def loops(q_bsae, k_bjae, v_bjae, mask_bsj):
    """Return the equation, one token at a time."""
    out_bsae = np.zeros(q_bsae.shape)
    q_bsae, k_bjae, v_bjae = (np.asarray(x, np.float64) for x in (q_bsae, k_bjae, v_bjae))
    mask_bsj = np.asarray(mask_bsj)
    for b, s, a in itertools.product(range(B), range(S), range(A)):
        admitted = [j for j in range(J) if mask_bsj[b, s, j]]
        weights = np.array([np.exp(q_bsae[b, s, a] @ k_bjae[b, j, a] / np.sqrt(E)) for j in admitted])
        for weight, j in zip(weights / weights.sum(), admitted, strict=True):
            out_bsae[b, s, a] += weight * v_bjae[b, j, a]
    return out_bsae


def test_values_are_those_of_the_loops():
    """Without a mask, and with one."""
    everything = np.ones((B, S, J), bool)
    out_bsae = attention(Q, K, V)
    assert out_bsae.shape == (B, S, A, E) and out_bsae.dtype == jnp.float32
    np.testing.assert_allclose(out_bsae, loops(Q, K, V, everything), atol=1e-5)
    np.testing.assert_allclose(attention(Q, K, V, MASK), loops(Q, K, V, MASK), atol=1e-5)


def test_equal_keys_give_the_mean_of_the_values():
    """All scores of a token are equal then, whatever the query."""
    mean = jnp.broadcast_to(V.mean(1, keepdims=True), (B, S, A, E))
    np.testing.assert_allclose(attention(Q, jnp.ones_like(K), V), mean, atol=1e-6)


def test_a_token_without_keys_gets_exactly_0():
    """The softmax over nothing has no value; the result is defined all the same."""
    np.testing.assert_array_equal(attention(Q, K, V, MASK)[0, 1], np.zeros((A, E)))


def test_large_scores_do_not_overflow():
    """The exponential of 1000 is infinite in float32; the softmax is not affected by a common offset of the scores."""
    out_bsae = attention(1e3 * jnp.ones_like(Q), jnp.ones_like(K).at[:, 2].set(2.0), V)
    np.testing.assert_allclose(out_bsae, jnp.broadcast_to(V[:, 2:3], (B, S, A, E)), atol=1e-5)


def test_what_is_masked_has_no_gradient():
    """The output of a token depends on exactly the values that it may attend to."""
    for b, s in itertools.product(range(B), range(S)):
        gradient = jax.grad(lambda v, b=b, s=s: jnp.sum(attention(Q, K, v, MASK)[b, s]))(V)
        reached = np.abs(np.asarray(gradient)).sum((2, 3)) > 0
        expected = np.zeros((B, J), bool)
        expected[b] = MASK[b, s]
        np.testing.assert_array_equal(reached, expected)


def test_gradients_are_finite_and_those_of_the_loops():
    """Central differences of the loops, for two entries of each argument; the empty token gives no NaN."""

    def total(*qkv):
        return jnp.sum(jnp.sin(attention(*qkv, MASK)))

    gradients = jax.grad(total, argnums=(0, 1, 2))(Q, K, V)
    for number, gradient in enumerate(gradients):
        assert np.isfinite(gradient).all()
        for place in [(1, 2, 0, 1), (0, 0, 1, 2)]:
            ends = []
            for step in (1e-3, -1e-3):
                qkv = [np.array(x, np.float64) for x in (Q, K, V)]
                qkv[number][place] += step
                ends.append(np.sin(loops(*qkv, MASK)).sum())
            np.testing.assert_allclose(gradient[place], (ends[0] - ends[1]) / 2e-3, atol=1e-3)
