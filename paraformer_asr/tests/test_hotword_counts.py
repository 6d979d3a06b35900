"""Recall and precision of hot words, and the errors of all other words."""

import math

import pytest

from asr.metrics import ErrorCounts, HotwordCounts, align, count_hotwords, sum_hotword_counts

PHRASES = {("new", "york"), ("ann",)}


def count(reference, hypothesis):
    return count_hotwords(align(reference.split(), hypothesis.split()), PHRASES)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("", "", HotwordCounts()),
        ("in new york", "in new york", HotwordCounts(1, 1, 1, ErrorCounts(reference_length=1))),
        ("in new york", "in new fork", HotwordCounts(1, 0, 0, ErrorCounts(reference_length=1))),
        ("new york", "new big york", HotwordCounts(1, 0, 0, ErrorCounts(insertions=1))),
        ("an apple", "ann apple", HotwordCounts(0, 1, 0, ErrorCounts(substitutions=1, reference_length=2))),
        ("yes", "yes ann", HotwordCounts(0, 1, 0, ErrorCounts(reference_length=1))),  # a false alarm, counted once
        ("ann ann no", "ann no", HotwordCounts(2, 1, 1, ErrorCounts(reference_length=1))),
    ],
)
def test_phrases_are_hits_if_they_are_complete_at_the_same_place(reference, hypothesis, expected):
    assert count(reference, hypothesis) == expected


def test_counts_are_added_and_divided_once():
    total = sum_hotword_counts([count("ann york", "ann york"), count("ann", "an"), count("no", "ann")])
    assert (total.recall, total.precision) == (1 / 2, 1 / 2)
    assert total.others == ErrorCounts(substitutions=1, reference_length=2)
    assert total.to_plain() == {
        "in_reference": 2,
        "in_hypothesis": 2,
        "hits": 1,
        "recall": 0.5,
        "precision": 0.5,
        "error_rate_of_others": 0.5,
    }
    assert str(total).startswith("hot words: recall 50.0% (1 of 2), precision 50.0% (1 of 2)")
    assert math.isnan(HotwordCounts().recall) and HotwordCounts().to_plain()["precision"] is None
