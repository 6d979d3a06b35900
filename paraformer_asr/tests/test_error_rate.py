"""Error counts, alignments, sums, and the two kinds of unit."""

import functools
import math
import random

import pytest

from asr.metrics import (
    ErrorCounts,
    align,
    character_errors,
    characters,
    count_errors,
    sum_counts,
    word_errors,
    words,
)


def slow_distance(reference, hypothesis):
    """The definition, by recursion."""

    @functools.cache
    def distance(i, j):
        if i == 0 or j == 0:
            return i + j
        substituted = distance(i - 1, j - 1) + (reference[i - 1] != hypothesis[j - 1])
        return min(substituted, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(reference), len(hypothesis))


def random_pairs(number=200, units="abc"):
    generator = random.Random(0)
    for _ in range(number):
        yield tuple([generator.choice(units) for _ in range(generator.randrange(9))] for _ in range(2))


def test_an_alignment_tells_both_texts_and_has_the_fewest_errors():
    for reference, hypothesis in random_pairs():
        alignment = align(reference, hypothesis)
        assert [truth for truth, _ in alignment.pairs if truth is not None] == reference
        assert [said for _, said in alignment.pairs if said is not None] == hypothesis
        assert (None, None) not in alignment.pairs
        counts = alignment.counts
        assert counts.errors == slow_distance(reference, hypothesis)
        assert counts.reference_length == len(reference)
        assert counts.reference_length - counts.deletions + counts.insertions == len(hypothesis)
        assert counts == count_errors(reference, hypothesis)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("", "", ErrorCounts(0, 0, 0, 0)),
        ("a b c", "a b c", ErrorCounts(0, 0, 0, 3)),
        ("a b c", "", ErrorCounts(0, 3, 0, 3)),
        ("", "a b", ErrorCounts(0, 0, 2, 0)),
        ("the cat sat", "the big cat sit", ErrorCounts(1, 0, 1, 3)),
        ("a b c d", "a c d", ErrorCounts(0, 1, 0, 4)),
    ],
)
def test_each_kind_of_error_is_counted_as_such(reference, hypothesis, counts):
    assert word_errors(reference, hypothesis) == counts


def test_units_are_compared_exactly_not_by_hash():
    class Unit:
        def __init__(self, name):
            self.name = name

        def __hash__(self):
            return 7

        def __eq__(self, other):
            return self.name == other.name

    assert count_errors([Unit("a"), Unit("b")], [Unit("a"), Unit("c")]) == ErrorCounts(1, 0, 0, 2)
    for reference in ([-1, -2], [-2, -1]):
        assert count_errors(reference, [-2]) == ErrorCounts(0, 1, 0, 2), "hash(-1) is -2"


def test_words_and_characters():
    text = " 你好\tthe  cat\u3000sat\n"
    assert words(text) == ["你好", "the", "cat", "sat"]
    assert characters(text) == list("你好 the cat sat")
    assert character_errors("the cat", "thec at") == ErrorCounts(0, 1, 1, 7), "a blank between words counts"
    assert character_errors("the cat", " the  cat ") == ErrorCounts(0, 0, 0, 7), "other blanks do not"
    assert word_errors("Cat", "cat").substitutions == 1, "case is not touched"


def test_counts_add_up_and_the_rate_is_that_of_the_sums():
    short, long = ErrorCounts(1, 0, 0, 1), ErrorCounts(1, 2, 3, 99)
    assert short + long == sum_counts([short, long]) == ErrorCounts(2, 2, 3, 100)
    assert (short + long).rate == 0.07
    assert (short + long).errors == 7 and (short + long).hits == 96
    assert sum_counts([]) == ErrorCounts()


def test_the_rate_may_pass_one_and_is_not_defined_without_truth():
    assert ErrorCounts(1, 0, 2, 1).rate == 3
    assert math.isnan(ErrorCounts(0, 0, 2, 0).rate) and math.isnan(ErrorCounts().rate)
