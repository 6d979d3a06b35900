"""The times of the second head: a slow loop that gives FunASR's lists, and the properties that those lack."""

import functools

import jax
import numpy as np
import pytest

from asr.decode import firing_times

STEP_S = 0.02
THRESHOLD = np.float32(1 - 1e-4)


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def times_of(alpha_bs, lengths_b, spoken_bu):
    return firing_times(alpha_bs, lengths_b, spoken_bu, step_s=STEP_S)


def fire(alpha_s):
    """Return the steps in which a running sum passes the threshold, one token a step, in float32."""
    total, places = np.float32(0), []
    for step, alpha in enumerate(alpha_s.astype(np.float32)):
        total += alpha
        if total >= THRESHOLD:
            places.append(step)
            total -= THRESHOLD
    return places


def published(alpha_s, num_tokens):
    """Return the times in ms as FunASR has them, of weights with any sum; too few pairs where a token is lost."""
    alpha_s = alpha_s * np.float32((num_tokens + 1) / alpha_s.sum(dtype=np.float64))
    place = [step - 1.5 for step in fire(alpha_s)]
    times = []
    for start, end in zip(place, place[1:], strict=False):
        times.append([start, min(end, start + 12)])
    rest = len(alpha_s) - place[-1]
    if times and place[-1] - times[-1][0] <= 12:
        times[-1][1] = (len(alpha_s) + place[-1]) / 2 if rest > 5 else len(alpha_s)
    return [[round(1000 * STEP_S * t) for t in pair] for pair in times]


def batch(draws, seed):
    """Return utterances of random lengths: weights, numbers of steps, numbers of tokens."""
    rng = np.random.default_rng(seed)
    drawn = [draws(rng) for _ in range(300)]
    lengths_b = np.array([len(alpha) for alpha, _ in drawn], np.int32)
    counts_b = np.array([count for _, count in drawn])
    alpha_bs = np.zeros((len(drawn), lengths_b.max()), np.float32)
    for row, (alpha, _) in enumerate(drawn):
        alpha_bs[row, : len(alpha)] = alpha
    return alpha_bs, lengths_b, counts_b


def speech(rng):
    """Bumps of some steps, no weight above 1 after scaling, silence before and behind."""
    alpha = np.concatenate([np.zeros(rng.integers(0, 30)), *(rng.dirichlet(np.full(8, 2.0)) for _ in range(9))])
    return np.concatenate([alpha, np.zeros(rng.integers(3, 30))]), 8


def peaky(rng):
    """A few spikes among nothing: many weights are far above 1 after scaling."""
    return rng.random(45) ** rng.uniform(5, 40) + 1e-6, rng.integers(1, 14)


def very_short(rng):
    """One to four frames, with as many tokens as can fire in them."""
    frames = rng.integers(1, 5)
    return rng.random(3 * frames) ** rng.uniform(0.5, 12) + 1e-6, rng.integers(1, frames + 1)


@pytest.mark.parametrize("draws", [speech, peaky, very_short])
def test_every_token_has_one_pair_in_order_and_funasrs_where_that_is_complete(draws):
    alpha_bs, lengths_b, counts_b = batch(draws, seed=1)
    spoken_bu = np.arange(counts_b.max())[None, :] < counts_b[:, None]
    start_bu, end_bu = (np.asarray(x) for x in times_of(alpha_bs, lengths_b, spoken_bu))
    complete = 0
    for row, (count, length) in enumerate(zip(counts_b, lengths_b, strict=True)):
        pairs = np.stack([start_bu[row, :count], end_bu[row, :count]], axis=1)
        assert np.all(np.diff(pairs.reshape(-1)) >= -1e-6)
        lasting = pairs[:, 1] > pairs[:, 0]
        assert lasting[1:].all()  # the first may lie before the sound
        assert pairs.min() >= 0 and pairs.max() <= length * STEP_S + 1e-6
        expected = published(alpha_bs[row, :length], count)
        complete += len(expected) == count
        if len(expected) == count:
            expected = np.clip(expected, 0, None)  # FunASR's first one may be negative
            np.testing.assert_array_equal(np.round(1000 * pairs), expected, err_msg=f"{draws.__name__} {row}")
    assert complete >= 200
    assert draws is speech or complete < len(counts_b)  # else the loop never loses a token, and this proves nothing


def test_what_is_not_written_lasts_no_time():
    alpha_bs = np.tile(np.tile([0.2, 0.3, 0.5], 8), (2, 1)).astype(np.float32)
    spoken_bu = np.array([[False, True, True, False, True, False], [True, True, True, False, False, False]])
    start_bu, end_bu = (np.asarray(x) for x in times_of(alpha_bs, np.array([24, 24]), spoken_bu))
    np.testing.assert_array_equal(start_bu[0][spoken_bu[0]], start_bu[1][:3])
    np.testing.assert_array_equal(end_bu[0][spoken_bu[0]], end_bu[1][:3])
    assert (start_bu[0, 0], end_bu[0, 0]) == (0, 0)
    assert start_bu[0, 3] == end_bu[0, 3] == end_bu[0, 2]
    assert start_bu[0, 5] == end_bu[0, 5] == end_bu[0, 4]


def test_an_utterance_has_the_same_times_alone_and_beside_longer_ones():
    alpha_bs, lengths_b, counts_b = batch(speech, seed=2)
    row = int(lengths_b.argmin())
    spoken_bu = np.arange(12)[None, :] < counts_b[:, None]
    together = np.stack(times_of(alpha_bs, lengths_b, spoken_bu))[:, row]
    alone = np.stack(times_of(alpha_bs[row : row + 1, : lengths_b[row]], lengths_b[row : row + 1], spoken_bu[:1]))[:, 0]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_silence_and_no_token_give_no_error_and_no_negative_time():
    spoken_bu = np.array([[True, True], [False, False], [True, False]])
    start_bu, end_bu = times_of(np.zeros((3, 3), np.float32), np.array([3, 3, 0]), spoken_bu)
    assert np.all(np.asarray(start_bu) >= 0) and np.all(np.asarray(end_bu) >= np.asarray(start_bu))
    assert not np.any(start_bu[1]) and not np.any(end_bu[1])
