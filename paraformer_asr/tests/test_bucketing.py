"""The plan of batches: everything once an epoch, pure in (seed, epoch), few shapes, little padding."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.bucketing import MARGIN_S, BatchPlan, choose_edges

RATE_HZ = 1000

durations = st.lists(st.floats(0.05, 20), min_size=1, max_size=60)
speed_sets = st.sampled_from([(1.0,), (0.9, 1.0, 1.1), (0.5, 2.0)])


def make_plan(durations_s, tokens=None, **settings):
    tokens = np.ones(len(durations_s), int) if tokens is None else tokens
    given = {"batch_seconds": 30.0, "num_buckets": 3, "sample_rate_hz": RATE_HZ}
    return BatchPlan(np.array(durations_s), np.array(tokens), **(given | settings))


def batches(plan, epoch):
    return [plan.batch(epoch, number) for number in range(plan.num_batches(epoch))]


def many(count=400, seed=0):
    rng = np.random.default_rng(seed)
    durations_s = rng.gamma(4, 1.0, count).clip(0.3, 15)
    return durations_s, (durations_s * rng.uniform(2, 6, count)).astype(int) + 1


@settings(max_examples=60, deadline=None)
@given(durations, speed_sets, st.integers(1, 5), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 3))
def test_an_epoch_has_every_utterance_once_and_each_fits_its_row(
    durations_s, speeds, num_buckets, multiple, shuffle, epoch
):
    tokens = np.arange(len(durations_s)) % 7 + 1
    plan = make_plan(
        durations_s, tokens, speeds=speeds, num_buckets=num_buckets, device_multiple=multiple, shuffle=shuffle
    )
    assert 1 <= len(plan.shapes) <= num_buckets
    seen = []
    for batch in batches(plan, epoch):
        assert batch.shape in plan.shapes
        assert batch.index_b.dtype == np.int32 and len(batch.index_b) == batch.shape.batch_size
        real = batch.index_b[batch.index_b >= 0]
        assert len(real) and (batch.index_b[: len(real)] >= 0).all()
        seen += real.tolist()
        for index, speed in zip(real, batch.speed_b, strict=False):
            assert speed in speeds
            assert (durations_s[index] + MARGIN_S) / speed <= batch.shape.num_samples / RATE_HZ + 1e-9
            assert tokens[index] <= batch.shape.num_tokens
    assert sorted(seen) == list(range(len(durations_s)))


@settings(max_examples=60, deadline=None)
@given(durations, speed_sets, st.floats(0.5, 60), st.sampled_from([1, 2, 4]))
def test_a_batch_is_as_long_as_admitted_and_no_row_shorter(durations_s, speeds, batch_seconds, multiple):
    plan = make_plan(durations_s, speeds=speeds, batch_seconds=batch_seconds, device_multiple=multiple)
    for shape in plan.shapes:
        rows, row_s = shape.batch_size, shape.num_samples / RATE_HZ
        assert rows >= multiple and rows % multiple == 0
        assert rows * row_s <= batch_seconds + 1e-6 or rows == multiple
        assert (rows + multiple) * row_s > batch_seconds - 1e-6
        assert shape.num_samples % (RATE_HZ // 10) == 0


@settings(max_examples=30, deadline=None)
@given(durations, speed_sets, st.integers(0, 5))
def test_few_batches_are_incomplete(durations_s, speeds, epoch):
    plan = make_plan(durations_s, speeds=speeds)
    shapes = plan.shapes
    for batch in batches(plan, epoch):
        rest = np.count_nonzero(batch.index_b >= 0)
        longer = shapes[shapes.index(batch.shape) + 1 :]
        if rest < batch.shape.batch_size and longer:  # to move up would have padded more
            assert rest * longer[0].num_samples > batch.shape.batch_size * batch.shape.num_samples


def test_a_plan_is_pure_in_seed_and_epoch():
    durations_s, tokens = many()
    speeds = (0.9, 1.0, 1.1)
    one, other = (make_plan(durations_s, tokens, speeds=speeds, seed=3) for _ in range(2))
    assert one.shapes == other.shapes == make_plan(durations_s, tokens, speeds=speeds, seed=4).shapes
    for epoch in (7, 0, 2, 1, 7, 5, 9):  # in any order, more than are kept
        expected = batches(make_plan(durations_s, tokens, speeds=speeds, seed=3), epoch)
        for batch, again in zip(batches(one, epoch), expected, strict=True):
            np.testing.assert_array_equal(batch.index_b, again.index_b)
            np.testing.assert_array_equal(batch.speed_b, again.speed_b)


def test_epochs_and_seeds_differ_in_order_neighbours_and_speeds():
    durations_s, tokens = many()

    def order(seed, epoch):
        plan = make_plan(durations_s, tokens, speeds=(0.9, 1.1), seed=seed)
        found = batches(plan, epoch)
        speeds = np.zeros(len(durations_s))
        for batch in found:
            real = batch.index_b >= 0
            speeds[batch.index_b[real]] = batch.speed_b[real]
        return [b.shape.num_samples for b in found], {frozenset(b.index_b.tolist()) for b in found}, tuple(speeds)

    base = order(0, 0)
    for other in (order(0, 1), order(1, 0)):
        assert other[0] != base[0]
        assert len(other[1] & base[1]) < 3
        assert 0.3 < np.mean(np.array(other[2]) != np.array(base[2])) < 0.7
    assert base[0] != sorted(base[0])


def test_each_speed_is_drawn_equally_often():
    plan = make_plan(np.full(3000, 1.0), speeds=(0.9, 1.0, 1.1))
    drawn = np.concatenate([b.speed_b[b.index_b >= 0] for b in batches(plan, 0)])
    assert {round(float(s), 3) for s in drawn} == {0.9, 1.0, 1.1}
    assert all(abs(np.mean(drawn == s) - 1 / 3) < 0.05 for s in (0.9, 1.0, 1.1))


@pytest.mark.parametrize("speeds", [(1.0,), (0.8, 1.0, 1.3)])
def test_epoch_starts_count_the_batches_of_all_epochs(speeds):
    plan = make_plan(*many(), speeds=speeds)
    starts = plan.epoch_starts(6)
    np.testing.assert_array_equal(np.diff(starts), [len(plan._epoch(epoch)[0]) for epoch in range(6)])
    assert starts[0] == 0 and starts.dtype == np.int64
    assert (len(set(np.diff(starts))) > 1) == (len(speeds) > 1)


def test_padding_share_is_what_the_batches_hold_beyond_the_utterances():
    durations_s, tokens = many()
    plan = make_plan(durations_s, tokens, speeds=(0.9, 1.0, 1.1))
    held = real = 0.0
    for batch in batches(plan, 4):
        held += batch.shape.batch_size * batch.shape.num_samples / RATE_HZ
        used = batch.index_b >= 0
        real += (durations_s[batch.index_b[used]] / batch.speed_b[used]).sum()
    assert plan.padding_share(4) == pytest.approx(1 - real / held)


def test_more_buckets_leave_less_padding():
    shares = [make_plan(*many(2000), num_buckets=k).padding_share(0) for k in (1, 2, 4, 8)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.6 and shares[3] < 0.16


def test_without_shuffling_all_stays_in_order():
    durations_s, tokens = many(50)
    plan = make_plan(durations_s, tokens, shuffle=False)
    found = batches(plan, 0)
    lengths = [b.shape.num_samples for b in found]
    assert lengths == sorted(lengths)
    for batch, again in zip(found, batches(plan, 1), strict=True):
        np.testing.assert_array_equal(batch.index_b, again.index_b)
    first = found[0].index_b
    assert (np.diff(first[first >= 0]) > 0).all()


def padded(lengths, edges, batch_size):
    """Return what `choose_edges` minimises, counted one utterance after the other."""
    total = sum(min(e for e in edges if e >= length) for length in lengths)
    return total + sum((batch_size(a) - 1) / 2 * (b - a) for a, b in itertools.pairwise(edges))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=25), st.integers(1, 4))
def test_no_other_edges_cause_less_padding(lengths, num_buckets):
    def batch_size(length):
        return 30 // length

    chosen = choose_edges(np.array(lengths), num_buckets, batch_size)
    inner = sorted(set(lengths) - {max(lengths)})
    others = (
        [*edges, max(lengths)]
        for k in range(num_buckets)
        for edges in itertools.combinations(inner, min(k, len(inner)))
    )
    best = min(padded(lengths, edges, batch_size) for edges in others)
    assert padded(lengths, chosen.tolist(), batch_size) == pytest.approx(best)
    assert len(chosen) <= num_buckets and chosen[-1] == max(lengths)


def test_a_wide_range_of_lengths_is_tried_in_coarser_steps():
    lengths = np.append(np.random.default_rng(0).integers(1, 29_501, 5000), 29_501)
    edges = choose_edges(lengths, 6, lambda length: 40_000 // length)
    assert len(edges) == 6 and lengths.max() <= edges[-1] < lengths.max() * 1.01
    assert np.searchsorted(edges, lengths).max() == 5


@pytest.mark.parametrize(("num_short", "moved"), [(12, True), (19, False)])
def test_a_rest_moves_up_only_where_that_is_cheaper(num_short, moved):
    plan = make_plan([1.0] * num_short + [5.0] * 20, num_buckets=2, batch_seconds=11.0, shuffle=False)
    assert [(s.batch_size, s.num_samples) for s in plan.shapes] == [(10, 1100), (2, 5100)]
    assert [b.shape for b in batches(plan, 0)].count(plan.shapes[0]) == (1 if moved else 2)
    assert plan.num_batches(0) == (1 + 11 if moved else 2 + 10)


def test_several_draws_of_one_utterance_count_as_one():
    durations_s, tokens = many(20)
    once, thrice = (make_plan(durations_s, tokens, speeds=(1.0,) * k, num_buckets=8) for k in (1, 3))
    assert once.shapes == thrice.shapes


def test_a_single_utterance_longer_than_a_batch_is_a_batch():
    plan = make_plan([100.0], [5], batch_seconds=10.0)
    assert [(s.batch_size, s.num_tokens) for s in plan.shapes] == [(1, 5)]
    assert plan.num_batches(0) == 1


def test_a_large_data_set_is_planned_at_once():
    durations_s, tokens = many(200_000)
    plan = make_plan(durations_s, tokens, speeds=(0.9, 1.0, 1.1), batch_seconds=600.0, num_buckets=8)
    assert sum(np.count_nonzero(b.index_b >= 0) for b in batches(plan, 0)) == 200_000
