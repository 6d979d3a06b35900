"""The glancing sampler: how many labels it shows, where, and whose gradient flows."""

import jax
import numpy as np
import pytest

from asr.models.sampler import glance

B, U, D = 3, 20, 2
LENGTHS = np.array([20, 11, 0], np.int32)
ZEROS, ONES = np.zeros((B, U, D), np.float32), np.ones((B, U, D), np.float32)
compiled = jax.jit(glance, static_argnames="ratio")


def run(key, num_wrong, ratio):
    tokens = np.tile(np.arange(U, dtype=np.int32), (B, 1))
    predicted = np.where(np.arange(U) < num_wrong, np.int32(-1), tokens)
    return jax.device_get(compiled(key, ZEROS, ONES, predicted, tokens, LENGTHS, ratio=ratio))


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
    tokens = np.zeros((B, U), np.int32)

    def total(acoustic, label):
        mixed, _ = glance(key, acoustic, label, tokens - 1, tokens, LENGTHS, ratio=0.5)
        return mixed.sum()

    by_acoustic, by_label = jax.device_get(jax.jit(jax.grad(total, argnums=(0, 1)))(ZEROS, ZEROS))
    np.testing.assert_array_equal(by_acoustic + by_label, 1)
    assert by_label[0, :, 0].sum() == 10
