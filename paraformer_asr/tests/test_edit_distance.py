"""Edit distance on the device: the textbook table, rapidfuzz, lengths; packing."""

import functools

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from asr.ops.edit_distance import edit_distance, pack_tokens


def slow_distance(reference, hypothesis):
    """The definition, by recursion."""

    @functools.cache
    def distance(u, w):
        if u == 0 or w == 0:
            return u + w
        substituted = distance(u - 1, w - 1) + (reference[u - 1] != hypothesis[w - 1])
        return min(substituted, distance(u - 1, w) + 1, distance(u, w - 1) + 1)

    return distance(len(reference), len(hypothesis))


def make_batch(batch, width, hypothesis_width, vocab, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, vocab, (batch, width)).astype(np.int32)
    hypothesis = rng.integers(0, vocab, (batch, hypothesis_width)).astype(np.int32)
    lengths = rng.integers(0, width + 1, batch).astype(np.int32)
    hypothesis_lengths = rng.integers(0, hypothesis_width + 1, batch).astype(np.int32)
    return reference, lengths, hypothesis, hypothesis_lengths


def rows(tokens, lengths):
    return [tuple(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]


def test_distances_are_those_of_the_definition_and_of_rapidfuzz():
    batch = make_batch(200, 9, 7, vocab=3)
    references, hypotheses = rows(*batch[:2]), rows(*batch[2:])
    found = np.asarray(edit_distance(*batch))
    assert found.dtype == np.int32
    for distance, reference, hypothesis in zip(found, references, hypotheses, strict=True):
        assert distance == slow_distance(reference, hypothesis) == Levenshtein.distance(reference, hypothesis)


def test_padding_does_not_count():
    reference, lengths, hypothesis, hypothesis_lengths = make_batch(64, 9, 7, vocab=3, seed=1)
    expected = np.asarray(edit_distance(reference, lengths, hypothesis, hypothesis_lengths))
    reference[np.arange(9)[None] >= lengths[:, None]] = 99
    hypothesis[np.arange(7)[None] >= hypothesis_lengths[:, None]] = -5
    np.testing.assert_array_equal(edit_distance(reference, lengths, hypothesis, hypothesis_lengths), expected)
    wider = np.pad(reference, ((0, 0), (0, 4))), lengths, np.pad(hypothesis, ((0, 0), (0, 2))), hypothesis_lengths
    np.testing.assert_array_equal(edit_distance(*wider), expected)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("abc", "abc", 0), ("abcd", "bcde", 2), ("aaaa", "aa", 2)],
)
def test_simple_cases(reference, hypothesis, distance):
    tokens = [np.array([[*map(ord, text.ljust(4, "~"))]], np.int32) for text in (reference, hypothesis)]
    lengths = [np.array([len(text)], np.int32) for text in (reference, hypothesis)]
    assert edit_distance(tokens[0], lengths[0], tokens[1], lengths[1])[0] == distance


def test_packing_keeps_the_order_and_fills_with_zeros():
    tokens = np.array([[5, 2, 7, 0, 9], [1, 2, 0, 1, 2], [6, 5, 4, 3, 8]], np.int32)
    packed, lengths = pack_tokens(tokens, tokens > 2)
    np.testing.assert_array_equal(packed, [[5, 7, 9, 0, 0], [0, 0, 0, 0, 0], [6, 5, 4, 3, 8]])
    np.testing.assert_array_equal(lengths, [3, 0, 5])
    assert packed.dtype == lengths.dtype == np.int32


def test_wrong_shapes_are_refused():
    reference, lengths, hypothesis, hypothesis_lengths = make_batch(4, 9, 7, vocab=3)
    with pytest.raises(AssertionError):
        edit_distance(reference, lengths, hypothesis[:3], hypothesis_lengths)
    with pytest.raises(AssertionError):
        edit_distance(reference.astype(np.float32), lengths, hypothesis, hypothesis_lengths)
    with pytest.raises(AssertionError):
        pack_tokens(reference, hypothesis > 2)
