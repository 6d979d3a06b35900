"""Stacks: their contents in the middle and at both ends, their number, and one that skips frames."""

import low_frame_rate
import numpy as np
import pytest


def numbered(num_frames):
    """Return frames that hold their own number and its negative."""
    number_t = np.arange(num_frames, dtype=np.float64)
    return np.stack([number_t, -number_t], axis=1)


def test_a_stack_in_the_middle_holds_its_neighbours():
    """Seven frames around frame 6, each whole, in the order of time."""
    stacked = low_frame_rate.stack_frames(numbered(20), 7, 6)
    np.testing.assert_array_equal(stacked[1], [3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8, 9, -9])


def test_the_first_and_the_last_frame_are_repeated():
    """There are no frames of zeros, which would sound like nothing that the network knows."""
    stacked = low_frame_rate.stack_frames(numbered(8), 5, 4)
    np.testing.assert_array_equal(stacked[0, ::2], [0, 0, 0, 1, 2])
    np.testing.assert_array_equal(stacked[1, ::2], [2, 3, 4, 5, 6])
    np.testing.assert_array_equal(low_frame_rate.stack_frames(numbered(9), 5, 4)[2, ::2], [6, 7, 8, 8, 8])


@pytest.mark.parametrize(("num_frames", "num_stacks"), [(1, 1), (6, 1), (7, 2), (12, 2), (13, 3)])
def test_every_frame_that_begins_a_stack_has_one(num_frames, num_stacks):
    """The number is ⌈t / lfr_n⌉."""
    assert low_frame_rate.stack_frames(numbered(num_frames), 7, 6).shape == (num_stacks, 14)


def test_one_frame_fills_a_whole_stack():
    """It is the first and the last at once."""
    stacked = low_frame_rate.stack_frames(np.array([[3.0, 4.0]]), 3, 2)
    np.testing.assert_array_equal(stacked, [[3, 4, 3, 4, 3, 4]])


@pytest.mark.parametrize(("lfr_m", "lfr_n"), [(1, 1), (4, 4), (2, 5), (4, 1)])
def test_even_widths_look_further_ahead_than_back(lfr_m, lfr_n):
    """Every value, by its definition."""
    x_tm = np.random.default_rng(0).normal(size=(17, 3))
    stacked = low_frame_rate.stack_frames(x_tm, lfr_m, lfr_n)
    assert stacked.shape == (-(-17 // lfr_n), 3 * lfr_m)
    for s, j in np.ndindex(len(stacked), lfr_m):
        frame = min(max(s * lfr_n + j - (lfr_m - 1) // 2, 0), 16)
        np.testing.assert_array_equal(stacked[s, 3 * j : 3 * j + 3], x_tm[frame])
