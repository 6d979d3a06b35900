"""The Dice loss: values by hand, gradients by differences, absent classes and ignored pixels."""

import jax
import jax.numpy as jnp
import numpy as np
from dice import EPSILON, IGNORED, dice_loss

K = 4
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.standard_normal((2, 3, 4, K)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, K - 1, (2, 3, 4)), jnp.int32).at[0, 0, :2].set(IGNORED)
"""The last class is absent; two pixels are ignored."""


def by_hand(logits, labels):
    """Return the loss in float64, class by class."""
    logits, labels = np.asarray(logits, np.float64).reshape(-1, K), np.asarray(labels).ravel()
    logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = []
    for k in range(K):
        t = labels == k
        if t.any():
            losses.append(1 - (2 * p[t, k].sum() + EPSILON) / (p[:, k].sum() + t.sum() + EPSILON))
    return np.mean(losses)


def test_value():
    """The sums run over the batch, so that the loss is not the mean of the images' losses."""
    loss = dice_loss(LOGITS, LABELS)
    assert loss.shape == () and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, by_hand(LOGITS, LABELS), rtol=1e-5)


def test_a_perfect_prediction_costs_0_and_a_wrong_one_1():
    """With probabilities of 0 and 1."""
    labels = LABELS % K
    sure = 100.0 * jax.nn.one_hot(labels, K)
    np.testing.assert_allclose(dice_loss(sure, labels), 0, atol=1e-6)
    np.testing.assert_allclose(dice_loss(jnp.roll(sure, 1, -1), labels), 1, atol=1e-5)


def test_the_gradient_is_that_of_the_value():
    """Central differences in float64, at every logit of three pixels, one of them ignored."""
    gradient = jax.grad(dice_loss)(LOGITS, LABELS)
    for pixel in [(0, 0, 1), (0, 2, 3), (1, 1, 0)]:
        for k in range(K):
            ends = []
            for step in (1e-4, -1e-4):
                logits = np.array(LOGITS, np.float64)
                logits[(*pixel, k)] += step
                ends.append(by_hand(logits, LABELS))
            np.testing.assert_allclose(gradient[(*pixel, k)], (ends[0] - ends[1]) / 2e-4, atol=1e-6)


def test_an_absent_class_has_no_term_but_its_logits_have_a_gradient():
    """Probability given to it is missing in the classes that the pixels belong to."""
    only_0 = jnp.zeros((1, 2, 2), jnp.int32)
    logits = jnp.zeros((1, 2, 2, K))
    # p = 1/4 everywhere: 1 − 2 · 4/4 / (4/4 + 4)
    np.testing.assert_allclose(dice_loss(logits, only_0), 1 - 2 / 5, rtol=1e-5)
    gradient = jax.grad(dice_loss)(logits, only_0)
    assert (gradient[..., 0] < 0).all() and (gradient[..., 1:] > 0).all()
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-7)


def test_ignored_pixels_reach_neither_value_nor_gradient():
    """Not even with infinite or undefined logits."""
    value, gradient = jax.value_and_grad(dice_loss)(LOGITS, LABELS)
    for poison in (1e9, jnp.inf, -jnp.inf, jnp.nan):
        poisoned = LOGITS.at[0, 0, 0, 1].set(poison)
        other_value, other_gradient = jax.value_and_grad(dice_loss)(poisoned, LABELS)
        np.testing.assert_array_equal(other_value, value)
        np.testing.assert_array_equal(other_gradient, gradient)
    assert (gradient[0, 0, :2] == 0).all() and (gradient[0, 0, 2:] != 0).any()


def test_a_batch_in_which_nothing_counts_costs_0_and_has_gradient_0():
    """A mean over no class: not 0 / 0."""
    nothing = jnp.full_like(LABELS, IGNORED)
    value, gradient = jax.value_and_grad(dice_loss)(LOGITS, nothing)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(LOGITS))
