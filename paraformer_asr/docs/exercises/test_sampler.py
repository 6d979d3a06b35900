"""The sampler: how many positions are shown, which ones, and whose gradient flows."""

import jax
import numpy as np
import pytest
import sampler

B, U, D = 3, 20, 2
LENGTHS = np.array([20, 11, 0], np.int32)
ZEROS, ONES = np.zeros((B, U, D), np.float32), np.ones((B, U, D), np.float32)


def run(seed, num_wrong, ratio):
    """Return the outputs where the first `num_wrong` tokens of each row are wrong; padding looks right."""
    tokens = np.tile(np.arange(U, dtype=np.int32), (B, 1))
    predicted = np.where(np.arange(U) < num_wrong, np.int32(-1), tokens)
    mixed, shown = sampler.glance(jax.random.key(seed), ZEROS, ONES, predicted, tokens, LENGTHS, ratio=ratio)
    return np.asarray(mixed), np.asarray(shown)


@pytest.mark.parametrize(
    ("num_wrong", "ratio", "expected"),
    [(20, 0.75, [15, 8, 0]), (4, 0.5, [2, 2, 0]), (1, 0.5, [0, 0, 0]), (0, 1.0, [0, 0, 0]), (20, 1.0, [20, 11, 0])],
)
def test_a_share_of_the_wrong_tokens_is_shown(num_wrong, ratio, expected):
    """The number is rounded down; padding is neither right nor wrong."""
    mixed, shown = run(0, num_wrong, ratio)
    assert shown.dtype == bool and shown.sum(1).tolist() == expected
    np.testing.assert_array_equal(mixed, np.broadcast_to(shown[..., None], mixed.shape))


def test_the_positions_are_drawn_among_all_real_ones():
    """Right or wrong, each of 20 positions is shown in about 15 of 60 draws."""
    counts = sum(run(seed, 10, 0.5)[1].astype(int) for seed in range(60))
    assert counts[0].min() >= 3 and counts[0].max() <= 28
    assert counts[1, :11].min() >= 10 and not counts[1, 11:].any() and not counts[2].any()


def test_the_same_key_draws_the_same_and_another_one_does_not():
    """Training must be repeatable."""
    np.testing.assert_array_equal(run(3, 20, 0.5)[1], run(3, 20, 0.5)[1])
    assert (run(3, 20, 0.5)[1] != run(4, 20, 0.5)[1]).any()


def test_gradients_reach_labels_where_shown_and_sound_elsewhere():
    """Each position takes one of the two, whole."""
    tokens = np.zeros((B, U), np.int32)

    def total(acoustic, label):
        mixed, _ = sampler.glance(jax.random.key(0), acoustic, label, tokens - 1, tokens, LENGTHS, ratio=0.5)
        return mixed.sum()

    by_acoustic, by_label = jax.grad(total, argnums=(0, 1))(ZEROS, ZEROS)
    np.testing.assert_array_equal(by_acoustic + by_label, 1)
    assert np.asarray(by_label)[..., 0].sum(1).tolist() == [10, 5, 0]
