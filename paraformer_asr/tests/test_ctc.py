"""CTC: every alignment counted one by one, optax, padding, impossible rows, NaN-free gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asr.losses import ctc_loss

VOCAB = 4


def log_softmax(logits):
    z = np.asarray(logits, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def collapse(path, blank=0):
    """Leave out repetitions, then blanks."""
    return [token for token, _ in itertools.groupby(path) if token != blank]


def slow_probability(logits, tokens, blank=0):
    """Return the probability of the tokens: the sum over all paths, one by one."""
    log_q = log_softmax(logits)
    return sum(
        np.exp(sum(log_q[t, token] for t, token in enumerate(path)))
        for path in itertools.product(range(log_q.shape[1]), repeat=len(log_q))
        if collapse(path, blank) == list(tokens)
    )


def frames_needed(tokens):
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def make_logits(*shape, seed=0):
    return (1.5 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def pad(rows, width):
    tokens = np.full((len(rows), width), 3, np.int32)  # padding is a token like any other
    for row, found in zip(tokens, rows, strict=True):
        row[: len(found)] = found
    return tokens, np.array([len(row) for row in rows], np.int32)


compiled = jax.jit(jax.value_and_grad(ctc_loss), static_argnames="blank")


def run(logits, frame_lengths, rows, shape=(3, 40, 5), blank=0):
    """Return the loss and its gradient, computed in one padded shape (b, t, u) for all tests: one compilation."""
    (batch, frames), (most_rows, most_frames, width) = logits.shape[:2], shape
    padding = (0, most_rows - batch), (0, most_frames - frames)
    tokens, token_lengths = pad([*rows, *[[]] * (most_rows - batch)], width)
    frame_lengths = np.pad(np.asarray(frame_lengths, np.int32), padding[0])
    value, gradient = compiled(np.pad(logits, (*padding, (0, 0))), frame_lengths, tokens, token_lengths, blank=blank)
    return float(value), np.asarray(gradient)[:batch, :frames]


@pytest.mark.parametrize("tokens", [[], [1], [2, 1], [1, 1], [1, 2, 1], [2, 2, 2], [1, 2, 3, 1]], ids=str)
def test_value_is_that_of_all_alignments_counted_one_by_one(tokens):
    logits = make_logits(1, 6, VOCAB)
    for frames in range(max(1, frames_needed(tokens)), 7):
        expected = -np.log(slow_probability(logits[0, :frames], tokens))
        assert run(logits, [frames], [tokens])[0] == pytest.approx(expected, rel=1e-5)


def test_gradient_is_the_slope_of_the_slow_twin():
    logits = make_logits(1, 5, VOCAB)
    _, gradient = run(logits, [5], [[1, 1, 2]])
    rng = np.random.default_rng(1)
    for _ in range(4):
        direction = rng.normal(size=logits.shape)
        up, down = (-np.log(slow_probability((logits + h * direction)[0], [1, 1, 2])) for h in (1e-4, -1e-4))
        assert np.sum(gradient * direction) == pytest.approx((up - down) / 2e-4, rel=1e-3)


def test_the_probabilities_of_all_token_sequences_add_up_to_one():
    logits = make_logits(1, 3, VOCAB)
    rows = [row for length in range(4) for row in itertools.product([1, 2, 3], repeat=length)]
    total = sum(
        np.exp(-run(logits, [3], [row])[0])
        for row in rows
        if frames_needed(row) <= 3  # the others are impossible, and give 0
    )
    assert total == pytest.approx(1, rel=1e-5)


def test_batches_of_any_lengths_and_another_blank_agree_with_optax():
    rng, blank = np.random.default_rng(2), 2
    frame_lengths = np.array([30, 17, 25, 9], np.int32)
    others = [token for token in range(VOCAB) if token != blank]
    rows = [list(rng.choice(others, length)) for length in (8, 3, 12, 1)]  # so short a vocabulary repeats itself
    tokens, token_lengths = pad(rows, 14)
    logits = make_logits(4, 32, VOCAB)

    def reference(logits):
        frame_padding = jnp.asarray(np.arange(32)[None] >= frame_lengths[:, None], jnp.float32)
        token_padding = jnp.asarray(np.arange(14)[None] >= token_lengths[:, None], jnp.float32)
        return optax.ctc_loss(logits, frame_padding, tokens, token_padding, blank_id=blank).sum()

    value, gradient = run(logits, frame_lengths, rows, (4, 32, 14), blank)
    expected, expected_gradient = jax.jit(jax.value_and_grad(reference))(logits)
    assert value == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


def test_padding_changes_neither_value_nor_gradient():
    logits, rows, frame_lengths = make_logits(3, 8, VOCAB), [[1, 2], [], [3, 3, 1]], [5, 0, 7]
    value, gradient = run(logits, frame_lengths, rows)
    padded = np.arange(8)[None] >= np.array(frame_lengths)[:, None]
    assert (gradient[padded] == 0).all() and (np.abs(gradient[~padded]).max(axis=-1) > 0).all()
    for there in (1e30, np.nan, np.inf, -np.inf):
        logits[padded, 1:] = there
        changed, changed_gradient = run(logits, frame_lengths, rows)
        assert changed == value
        np.testing.assert_array_equal(changed_gradient, gradient)
    narrow, narrow_gradient = run(logits, frame_lengths, rows, shape=(3, 8, 3))
    assert narrow == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(narrow_gradient, gradient, atol=1e-6)


def test_a_row_without_tokens_is_the_path_of_blanks():
    logits = make_logits(2, 4, VOCAB)
    expected = -log_softmax(logits)[0, :, 0].sum() - log_softmax(logits)[1, :3, 0].sum()
    assert run(logits, [4, 3], [[], []])[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tokens", [[1, 2, 3, 1], [1, 1, 2], [2, 2]])
def test_tokens_that_cannot_fit_give_zero_and_no_gradient(tokens):
    logits = make_logits(2, 5, VOCAB)
    needed = frames_needed(tokens)
    alone = run(logits[1:], [4], [[2]])
    value, gradient = run(logits, [needed - 1, 4], [tokens, [2]])
    assert value == pytest.approx(alone[0], rel=1e-6)
    assert (gradient[0] == 0).all()
    np.testing.assert_allclose(gradient[1:], alone[1], atol=1e-6)
    assert run(logits, [needed, 4], [tokens, [2]])[0] > value + 0.1, "one frame more, and they fit"


def test_no_frame_and_no_token_is_certain():
    logits = make_logits(1, 3, VOCAB)
    value, gradient = run(logits, [0], [[]])
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("scale", [1e3, 1e30, np.inf])
def test_gradients_are_never_nan(scale):
    right = np.full((1, 40, VOCAB), -scale, np.float32)
    right[:, :, 0] = 0
    right[:, 20, :] = [-scale, 0, -scale, -scale]
    for rows in ([[1]], [[2]], [[1, 1, 3, 3, 2]], [[]]):  # certain, and next to impossible
        value, gradient = run(right, [40], rows)
        assert np.isfinite(value) and np.isfinite(gradient).all(), rows
    assert run(right, [40], [[1]])[0] == pytest.approx(0, abs=1e-5)
    only_3 = np.where(np.arange(VOCAB) == 3, 0, np.full((1, 40, VOCAB), -scale)).astype(np.float32)
    for rows in ([[3]], [[1]], [[1, 1, 2]], [[]]):  # blanks have no probability either
        value, gradient = run(only_3, [40], rows)
        assert np.isfinite(value) and np.isfinite(gradient).all(), rows


def test_long_utterances_stay_exact():
    rows = [list(np.random.default_rng(3).integers(1, VOCAB, 80))]
    uniform = np.zeros((1, 600, VOCAB), np.float32)
    value, _ = run(uniform, [600], rows, (1, 600, 80))
    count = np.zeros((2, 81))  # alignments in float64, by the textbook recursion: [on a blank, on the token], u
    count[0, 0] = 1
    for _ in range(600):
        repeated = np.array([False] + [a == b for a, b in itertools.pairwise(rows[0])])
        token = count[1].copy()
        token[1:] += count[0, :-1] + np.where(repeated, 0, count[1, :-1])
        count = np.stack([count[0] + count[1], token]) / VOCAB
    assert value == pytest.approx(-np.log(count[:, 80].sum()), rel=1e-5)


@pytest.mark.parametrize("token", [0, -1, VOCAB])
def test_a_token_that_is_the_blank_or_no_token_makes_the_loss_nan(token):
    assert np.isnan(run(make_logits(1, 5, VOCAB), [5], [[1, token]])[0])


def test_sums_are_float32_whatever_the_dtype_of_the_logits():
    low = jnp.asarray(make_logits(1, 5, VOCAB), jnp.bfloat16)
    tokens, lengths = pad([[1, 2]], 2)
    value, _ = compiled(low, np.array([5], np.int32), tokens, lengths)
    assert value.dtype == jnp.float32 and value.shape == ()
    assert value == pytest.approx(run(np.asarray(low, np.float32), [5], [[1, 2]])[0], rel=1e-6)
