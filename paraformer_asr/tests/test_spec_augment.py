"""SpecAugment's masks: inside each utterance, no wider than allowed, drawn evenly and apart, pure in the key."""

import jax
import numpy as np
import pytest

from asr.ops.spec_augment import draw_stretches, spec_augment_masks

NUM_FRAMES, NUM_MELS = 60, 20


def draw(key, lengths, **settings):
    hidden_bt, hidden_bm = spec_augment_masks(
        key, np.asarray(lengths, np.int32), num_frames=NUM_FRAMES, num_mels=NUM_MELS, **settings
    )
    return np.asarray(hidden_bt), np.asarray(hidden_bm)


def num_stretches(hidden_l):
    """Return how many separate stretches of True there are."""
    return int((np.diff(np.concatenate([[0], hidden_l.astype(int)])) == 1).sum())


def test_masks_are_stretches_within_their_limits(key):
    lengths = np.tile([60, 37, 10, 1, 0], 200)
    settings = {"num_mel_masks": 1, "max_mel_width": 6, "num_time_masks": 1, "max_time_width": 12}
    hidden_bt, hidden_bm = draw(key, lengths, max_time_share=0.3, **settings)
    assert hidden_bt.shape == (1000, NUM_FRAMES) and hidden_bm.shape == (1000, NUM_MELS)
    assert hidden_bt.dtype == hidden_bm.dtype == bool
    widths_b = hidden_bt.sum(axis=1)
    for length, most in ((60, 12), (37, 11), (10, 3), (1, 0), (0, 0)):
        assert set(widths_b[lengths == length]) == set(range(most + 1))
        assert not hidden_bt[lengths == length, length:].any()
    assert set(hidden_bm.sum(axis=1)) == set(range(7))
    assert max(map(num_stretches, [*hidden_bt, *hidden_bm])) == 1


def test_the_share_is_rounded_down(key):
    lengths = np.tile([35, 34, 5, 4], 300)
    hidden_bt, _ = draw(key, lengths, num_mel_masks=0, max_time_width=60, max_time_share=0.2, num_time_masks=1)
    assert [int(hidden_bt[lengths == length].sum(axis=1).max()) for length in (35, 34, 5, 4)] == [7, 6, 1, 0]


def test_several_masks_may_lie_apart_and_none_hides_nothing(key):
    hidden_bt, hidden_bm = draw(key, [60] * 300, num_mel_masks=2, max_mel_width=100, num_time_masks=3, max_time_width=5)
    assert set(map(num_stretches, hidden_bt)) == {0, 1, 2, 3}
    assert {1, 2} <= set(map(num_stretches, hidden_bm)) <= {0, 1, 2}
    assert hidden_bm.all(axis=1).any()  # a band wider than all filters is all filters
    hidden_bt, hidden_bm = draw(key, [60] * 5, num_mel_masks=0, num_time_masks=0)
    assert not hidden_bt.any() and not hidden_bm.any()


def test_utterances_and_keys_are_drawn_apart(keys):
    first, second = keys(), keys()
    hidden_bt, hidden_bm = draw(first, [60] * 50)
    assert len({row.tobytes() for row in hidden_bt}) > 40 and len({row.tobytes() for row in hidden_bm}) > 25
    again_bt, again_bm = draw(first, [60] * 50)
    np.testing.assert_array_equal(again_bt, hidden_bt)
    np.testing.assert_array_equal(again_bm, hidden_bm)
    other_bt, other_bm = draw(second, [60] * 50)
    assert (other_bt != hidden_bt).any() and (other_bm != hidden_bm).any()


def test_widths_and_starts_are_drawn_evenly(key):
    """Over 20,000 lines of 5 places and widths up to 2, every (start, width > 0) has its own frequency."""
    lines = 20_000
    inside_bl = draw_stretches(key, np.full(lines, 5, np.int32), np.full(lines, 2, np.int32), 1, 5)
    rows, counts = np.unique(np.asarray(inside_bl), axis=0, return_counts=True)
    frequency = {tuple(np.flatnonzero(row).tolist()): count / lines for row, count in zip(rows, counts, strict=True)}
    expected = {(): 1 / 3} | {(i,): 1 / 15 for i in range(5)} | {(i, i + 1): 1 / 12 for i in range(4)}
    assert frequency == pytest.approx(expected, abs=0.01)


def test_contracts(key):
    with pytest.raises(AssertionError):
        draw(key, [[60, 60]])
    with pytest.raises(AssertionError):
        spec_augment_masks(key, jax.numpy.zeros(3), num_frames=4, num_mels=4)
