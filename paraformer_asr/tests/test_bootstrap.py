"""The confidence interval: its coverage, its limits, its seed."""

import math

import numpy as np
import pytest

from asr.metrics import ErrorCounts, bootstrap_interval


def draw_utterances(number, rate, seed):
    """Return utterances of 1 to 12 words, each word wrong with the probability `rate`."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 13, number)
    return [ErrorCounts(substitutions=int(rng.binomial(n, rate)), reference_length=int(n)) for n in lengths]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_holds_the_true_rate_as_often_as_it_says(level):
    held = 0
    for seed in range(150):
        low, high = bootstrap_interval(draw_utterances(80, 0.1, seed), level, num_samples=200, seed=seed)
        held += low <= 0.1 <= high
    assert abs(held / 150 - level) < 0.08


def test_the_interval_has_the_width_of_the_textbook():
    counts = [ErrorCounts(substitutions=int(i % 4 == 0), reference_length=1) for i in range(400)]
    low, high = bootstrap_interval(counts, 0.95, num_samples=4000)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - half, abs=0.006) and high == pytest.approx(0.25 + half, abs=0.006)


def test_a_higher_level_is_wider_and_more_utterances_are_narrower():
    few, many = draw_utterances(30, 0.2, 0), draw_utterances(600, 0.2, 0)
    widths = [
        high - low
        for low, high in (bootstrap_interval(few), bootstrap_interval(few, level=0.5), bootstrap_interval(many))
    ]
    assert widths[0] > widths[1] and widths[0] > 2 * widths[2]


def test_utterances_are_drawn_whole():
    alike = [ErrorCounts(substitutions=5, reference_length=10)] * 8
    assert bootstrap_interval(alike) == (0.5, 0.5)
    clustered = [ErrorCounts(substitutions=10 * (i % 2), reference_length=10) for i in range(8)]
    low, high = bootstrap_interval(clustered)
    assert low < 0.25 and high > 0.75


def test_the_same_seed_gives_the_same_interval():
    counts = draw_utterances(40, 0.2, 1)
    assert bootstrap_interval(counts, seed=3) == bootstrap_interval(counts, seed=3)
    assert bootstrap_interval(counts, seed=3) != bootstrap_interval(counts, seed=4)


def test_utterances_without_text():
    assert all(map(math.isnan, bootstrap_interval([])))
    assert all(map(math.isnan, bootstrap_interval([ErrorCounts(insertions=2)])))
    low, high = bootstrap_interval([ErrorCounts(insertions=2), ErrorCounts(reference_length=1)])
    assert low == 0 and high >= 2, "an inserted word counts, a drawn set without any text does not"


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(ValueError, match=f"between 0 and 1, found {level}"):
        bootstrap_interval([ErrorCounts(reference_length=1)], level)
