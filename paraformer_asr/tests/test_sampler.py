"""The glancing sampler: how many labels it shows, where, and whose gradient flows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.models.sampler import glance

B, U, D = 3, 20, 2
LENGTHS = jnp.array([20, 11, 0])


def run(key, num_wrong, ratio):
    tokens = jnp.tile(jnp.arange(U)[None], (B, 1))
    predicted = jnp.where(jnp.arange(U)[None] < num_wrong, -1, tokens)
    acoustic, label = jnp.zeros((B, U, D)), jnp.ones((B, U, D))
    return glance(key, acoustic, label, predicted, tokens, LENGTHS, ratio=ratio)


@pytest.mark.parametrize(
    ("num_wrong", "ratio", "shown"), [(20, 0.75, [15, 8, 0]), (4, 0.5, [2, 2, 0]), (0, 1.0, [0, 0, 0])]
)
def test_the_share_of_the_wrong_tokens_is_shown(key, num_wrong, ratio, shown):
    mixed, shown_bu = run(key, num_wrong, ratio)
    assert shown_bu.sum(1).tolist() == shown
    np.testing.assert_array_equal(mixed[..., 0], shown_bu)


def test_positions_are_random_among_the_real_ones(keys):
    counts = sum(np.asarray(run(keys(), 20, 0.5)[1], int) for _ in range(60))
    assert (counts[0] > 10).all() and (counts[0] < 50).all()  # each of 20 positions in about 30 of 60 draws
    assert (counts[1, :11] > 10).all() and not counts[1, 11:].any() and not counts[2].any()


def test_gradients_reach_labels_where_shown_and_sound_elsewhere(key):
    tokens = jnp.zeros((B, U), int)

    def total(acoustic, label):
        mixed, _ = glance(key, acoustic, label, tokens - 1, tokens, LENGTHS, ratio=0.5)
        return mixed.sum()

    by_acoustic, by_label = jax.grad(total, argnums=(0, 1))(jnp.zeros((B, U, D)), jnp.zeros((B, U, D)))
    np.testing.assert_array_equal(by_acoustic + by_label, 1)
    assert by_label[0, :, 0].sum() == 10
