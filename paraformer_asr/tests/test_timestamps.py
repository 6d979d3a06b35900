"""Times of tokens: order and bounds for any weights, exact cases, simulated speech."""

import jax
import numpy as np
import pytest

from asr.config import FeaturesConfig
from asr.decode import spans_to_alignment, token_times
from asr.ops import cif

SHIFT_MS, CENTRE_MS = FeaturesConfig().output_shift_ms, FeaturesConfig().frame_length_ms / 2
SETTINGS = {"frame_shift_ms": SHIFT_MS, "first_centre_ms": CENTRE_MS}
FIRST_EDGE_S = (CENTRE_MS - SHIFT_MS / 2) / 1000
compiled = jax.jit(token_times, static_argnames=("frame_shift_ms", "first_centre_ms", "min_token_ms"))


def times(alignment, token_lengths, frame_lengths, durations, **settings):
    found = compiled(
        np.asarray(alignment, np.float32),
        np.asarray(token_lengths, np.int32),
        np.asarray(frame_lengths, np.int32),
        np.asarray(durations, np.float32),
        **{**SETTINGS, **settings},
    )
    return tuple(map(np.asarray, found))


def times_of_one(rows, duration=100.0, **settings):
    rows = np.asarray(rows)[None]
    start, end = times(rows, rows.shape[1:2], rows.shape[2:], [duration], **settings)
    return start[0], end[0]


def edge(frame):
    """Return the time in s at which a frame begins; 2.5 is the middle of frame 2."""
    return FIRST_EDGE_S + frame * SHIFT_MS / 1000


def random_weights(seed, batch=16, frames=24):
    """Return alpha of very different kinds, and lengths: even, sparse, faint, above 1, none."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, frames + 1, batch)
    alpha = rng.random((batch, frames)) ** rng.choice([0.1, 1, 20], (batch, 1)) * rng.choice([0.01, 0.5, 3], (batch, 1))
    alpha[rng.random(alpha.shape) < 0.3] = 0
    return np.where(np.arange(frames)[None] < lengths[:, None], alpha, 0).astype(np.float32), lengths.astype(np.int32)


@pytest.mark.parametrize("seed", range(4))
def test_one_pair_of_times_for_each_token_in_order_within_the_sound(seed):
    alpha, frame_lengths = random_weights(seed)
    durations = np.maximum(frame_lengths * 0.06 - 0.013, 0)
    extended = cif.add_tail(alpha, frame_lengths, 0.45)
    counts = np.floor(np.asarray(cif.cumulative(extended))[:, -1]).astype(np.int32)
    decoding = cif.align(cif.cumulative(extended), 80)
    wanted = np.where(frame_lengths > 0, np.random.default_rng(seed).integers(0, 30, len(alpha)), 0)
    valid = np.arange(alpha.shape[1])[None] < frame_lengths[:, None]
    training = cif.align(cif.scaled_cumulative(alpha, valid, wanted.astype(np.int32)), 80)
    for alignment, lengths in [(decoding, np.minimum(counts, 80)), (training, wanted)]:
        start, end = times(alignment, lengths, frame_lengths, durations)
        for row, length in enumerate(lengths):
            s, e = start[row, :length], end[row, :length]
            assert (s >= 0).all() and (s <= e).all() and (e <= durations[row] + 1e-6).all()
            assert (e[:-1] <= s[1:]).all()
            assert (start[row, length:] == 0).all() and (end[row, length:] == 0).all()


def test_a_batch_and_the_tail_change_nothing():
    alpha, frame_lengths = random_weights(9, batch=6)
    frame_lengths = np.maximum(frame_lengths, 3)
    durations = frame_lengths * 0.06
    extended = cif.add_tail(alpha, frame_lengths, 0.45)
    counts = np.floor(np.asarray(cif.cumulative(extended))[:, -1]).astype(np.int32)
    alignment = np.array(cif.align(cif.cumulative(extended), 80))
    start, end = times(alignment, counts, frame_lengths, durations)
    for row in range(6):
        one = slice(row, row + 1)
        alone = np.zeros((1, 80, 24))  # no tail
        alone[..., : frame_lengths[row]] = alignment[one, :, : frame_lengths[row]]
        found = times(alone, counts[one], frame_lengths[one], durations[one])
        np.testing.assert_allclose(found[0][0], start[row], atol=1e-5)
        np.testing.assert_allclose(found[1][0], end[row], atol=1e-5)
    alignment[np.broadcast_to(np.arange(25) >= frame_lengths[:, None, None], alignment.shape)] = 7.0
    for found, expected in zip(times(alignment, counts, frame_lengths, durations), (start, end), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_evenly_spread_weight_gives_the_token_exactly():
    rows = np.zeros((3, 16))
    rows[0, 2:6], rows[1, 6:10], rows[2, 12:15] = 1 / 4, 1 / 4, 1 / 3
    start, end = times_of_one(rows, min_token_ms=0.0)
    np.testing.assert_allclose(start, [edge(2), edge(6), edge(12)], atol=1e-4)
    np.testing.assert_allclose(end, [edge(6), edge(10), edge(15)], atol=1e-4)


def test_a_single_frame_grows_to_a_short_token_around_it():
    rows = np.zeros((2, 40))
    rows[0, 10] = rows[1, 30] = 1
    start, end = times_of_one(rows, min_token_ms=200.0)
    np.testing.assert_allclose((start + end) / 2, [edge(10.5), edge(30.5)], atol=1e-4)
    np.testing.assert_allclose(end - start, 0.2, atol=1e-4)


def test_neighbours_meet_in_the_middle_of_the_gap():
    rows = np.zeros((3, 20))
    rows[0, 4] = rows[1, 6] = rows[2, 7] = 1
    start, end = times_of_one(rows)
    np.testing.assert_allclose(end[:2], [edge(6 - 0.5), edge(7)], atol=1e-4)
    np.testing.assert_allclose(start[1:], end[:2], atol=1e-6)


def test_a_widely_spread_neighbour_does_not_swallow_a_token():
    rows = np.zeros((2, 60))
    rows[0, 10], rows[1, 11], rows[1, 50] = 1, 0.3, 0.7  # doubled, the second one would begin before the first
    start, end = times_of_one(rows)
    assert start[0] < edge(10.5) < end[0] <= start[1]


def test_times_stop_at_the_ends_of_the_sound():
    rows = np.zeros((2, 10))
    rows[0, 0] = rows[1, 9] = 1
    start, end = times_of_one(rows, duration=0.56)
    assert start[0] == 0 and end[1] == pytest.approx(0.56)


def test_faint_weight_in_silence_does_not_pull_a_token_away():
    row = np.full(30, 0.002)
    row[20:24] = (1 - 26 * 0.002) / 4
    start, end = times_of_one(row[None], min_token_ms=0.0)
    assert start[0] == pytest.approx(edge(20), abs=0.02) and end[0] == pytest.approx(edge(24), abs=0.02)


def test_tokens_without_weight_keep_the_order():
    rows = np.zeros((4, 10))
    rows[0, 3] = rows[2, 6] = 1
    start, end = times_of_one(rows)
    assert (start <= end).all() and (end[:-1] <= start[1:]).all()
    assert end[0] > edge(3.5) and end[2] > edge(6.5), "the token before keeps its own"


def test_no_frame_and_no_token():
    start, end = times(np.zeros((1, 3, 5)), [0], [0], [0.0])
    assert (start == 0).all() and (end == 0).all()
    start, end = times(np.zeros((1, 3, 5)), [2], [0], [0.0])
    assert (start == 0).all() and (end == 0).all()


def test_spans_of_frames_become_rows():
    rows = spans_to_alignment(np.array([[1, 4]], np.int32), np.array([[2, 4]], np.int32), 6)
    np.testing.assert_array_equal(rows[0], [[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]])
    start, _ = times_of_one(rows[0], min_token_ms=0.0)
    np.testing.assert_allclose(start, [edge(1), edge(4)], atol=1e-4)


# ---- simulated speech: the numbers at the head of timestamps.py ----


def simulate(kind, seed):
    """Return true starts and ends in ms, and alpha, of one utterance with pauses."""
    rng = np.random.default_rng(seed)
    number = rng.integers(4, 14)
    lengths = np.clip(rng.lognormal(np.log(190), 0.45, number), 70, 500)
    pauses = np.where(rng.random(number) < 0.2, rng.uniform(80, 600, number), 0)
    starts = rng.uniform(100, 500) + np.cumsum(lengths + pauses) - lengths - pauses
    ends = starts + lengths
    edges = 1000 * edge(np.arange(int((ends[-1] + 400) / SHIFT_MS) + 1))
    alpha = np.full(len(edges) - 1, rng.choice([0.0, 0.004]))
    for start, end in zip(starts, ends, strict=True):
        weight = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None)
        if kind == "bell":
            fine = np.linspace(start, end, 200)
            bell = np.exp(-0.5 * ((fine - (start + end) / 2) / ((end - start) / 5)) ** 2)
            weight = np.histogram(fine, edges, weights=bell)[0]
        if kind == "frame":
            weight = np.histogram([rng.uniform(0.8 * start + 0.2 * end, 0.2 * start + 0.8 * end)], edges)[0]
        alpha += weight / weight.sum() * rng.uniform(0.9, 1.1)
    return starts, ends, alpha


def plain_points(rows, low, high):
    """Return the points of each row's weight that a simpler rule would take, in s."""
    cumulative = np.cumsum(rows, axis=1) / rows.sum(axis=1, keepdims=True)
    frames = np.arange(rows.shape[1] + 1)
    points = [[np.interp(share, np.r_[0, row], frames) for row in cumulative] for share in (low, high)]
    return tuple(edge(np.array(p)) for p in points)


def middles(rows):
    """Return the middles between the rows' centres, in s."""
    centre = edge((rows * (np.arange(rows.shape[1]) + 0.5)).sum(axis=1) / rows.sum(axis=1))
    between = (centre[1:] + centre[:-1]) / 2
    return np.r_[centre[0] - 0.1, between], np.r_[between, centre[-1] + 0.1]


@pytest.mark.parametrize(("kind", "stated"), [("even", (17, 32, 56)), ("bell", (30, 48, 56)), ("frame", (43, 98, 63))])
def test_boundaries_of_simulated_speech_are_as_near_as_stated(kind, stated):
    errors = ([], [], [])
    utterances = [simulate(kind, seed) for seed in range(120)]
    alignments = np.zeros((len(utterances), 16, 200), np.float32)
    for i, (starts, _, alpha) in enumerate(utterances):
        cumulative = np.cumsum(alpha) / alpha.sum() * len(starts)
        rows = np.asarray(
            cif.align(np.pad(cumulative, (0, 200 - len(alpha)), mode="edge")[None].astype(np.float32), 16)
        )
        alignments[i] = rows[0]
    counts, frames = [len(u[0]) for u in utterances], [len(u[2]) for u in utterances]
    start, end = times(alignments, counts, frames, np.array(frames) * SHIFT_MS / 1000)
    for i, (starts, ends, alpha) in enumerate(utterances):
        rows = alignments[i, : len(starts), : len(alpha)].astype(np.float64)
        ours = start[i, : len(starts)], end[i, : len(starts)]
        for error, found in zip(errors, [ours, plain_points(rows, 0.05, 0.95), middles(rows)], strict=True):
            error += [*np.abs(1000 * found[0] - starts), *np.abs(1000 * found[1] - ends)]
    np.testing.assert_allclose([np.mean(error) for error in errors], stated, rtol=0.03)
