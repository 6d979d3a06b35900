"""The automaton of hot words and the searches over it, against phrases counted one by one and all rows of tokens."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest

from asr.decode import (
    HotwordFusion,
    TokenFusion,
    TokenKinds,
    build_automaton,
    ctc_beam_search,
    ctc_greedy,
    greedy,
    search_ctc,
    search_tokens,
)
from asr.decode.hotword_automaton import START, finish, step

V = 6
CHINESE = TokenKinds(np.ones(V, bool), np.ones(V, bool), np.ones(V, bool))  # each token is a word
PIECES = TokenKinds(np.arange(V) < 3, np.zeros(V, bool), np.ones(V, bool))  # 0, 1 and 2 are like `▁a`
MIXED = TokenKinds(np.arange(V) < 2, np.arange(V) % 2 == 0, np.arange(V) > 0)  # 0 is a special token
KINDS = {"chinese": CHINESE, "pieces": PIECES, "mixed": MIXED}

ROWS, LONGEST = 16, 7  # of the walks
SHAPE = 3, 7, V  # of the logits: few shapes, few programs
EXACT = {"beam_size": 40, "num_candidates": V}
search_exactly = jax.jit(functools.partial(search_tokens, **EXACT))
search_narrowly = jax.jit(functools.partial(search_tokens, beam_size=2, num_candidates=2))
search_ctc_exactly = jax.jit(functools.partial(search_ctc, **EXACT))


def slow_bonus(tokens, phrases, kinds):
    """Return the bonus of all places at which a phrase stands between two boundaries."""
    best = {}
    for phrase, bonus in phrases:
        best[tuple(phrase)] = max(bonus, best.get(tuple(phrase), 0.0))

    def is_boundary(place):
        return place in (0, len(tokens)) or kinds.begins_v[tokens[place]] or kinds.ends_v[tokens[place - 1]]

    return sum(
        bonus * len(phrase)
        for phrase, bonus in best.items()
        for a in range(len(tokens) - len(phrase) + 1)
        if tuple(tokens[a : a + len(phrase)]) == phrase and is_boundary(a) and is_boundary(a + len(phrase))
    )


def random_phrases(rng, number, longest=4):
    lengths = rng.integers(1, longest + 1, number)
    return [(tuple(rng.integers(0, V, n).tolist()), float(rng.uniform(0.2, 3))) for n in lengths]


@jax.jit
def walk(automaton, tokens_nu):
    """Return the sums of the gains after each token [u, n], and those of rows that end there."""

    def advance(carry, token_n):
        state_n, total_n = carry
        state_n, gain_n = step(automaton, state_n, token_n)
        return (state_n, total_n + gain_n), (total_n + gain_n, total_n + gain_n + finish(automaton, state_n))

    start = np.full(len(tokens_nu), START, np.int32), np.zeros(len(tokens_nu), np.float32)
    return jax.lax.scan(advance, start, tokens_nu.T)[1]


def walk_one(automaton, tokens):
    """Return the sum of the gains after each token, and that of the whole with its end."""
    row_u = np.array([*tokens, *[0] * (LONGEST - len(tokens))], np.int32)
    sums_un, ended_un = walk(automaton, np.tile(row_u, (ROWS, 1)))
    return np.asarray(sums_un)[: len(tokens), 0].tolist(), float(ended_un[len(tokens) - 1, 0])


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_a_walk_collects_the_whole_bonus_of_each_phrase_and_nothing_else(kinds):
    rng = np.random.default_rng(0)
    num_paid = 0
    for number in (1, 3, 30):
        phrases = random_phrases(rng, number)
        automaton = build_automaton(phrases, kinds)
        fusion = HotwordFusion(TokenFusion(None, (), 0.0), automaton)
        tokens_nu = rng.integers(0, V, (ROWS, LONGEST)).astype(np.int32)
        ended_un = np.asarray(walk(automaton, tokens_nu)[1])
        for n, u in itertools.product(range(ROWS), range(LONGEST)):
            tokens = tokens_nu[n, : u + 1].tolist()
            expected = slow_bonus(tokens, phrases, kinds)
            assert ended_un[u, n] == pytest.approx(expected, abs=1e-4)
            state = functools.reduce(fusion.extend, tokens, fusion.start())
            assert fusion.finish(state) == pytest.approx(expected, abs=1e-4)
            num_paid += expected > 0
    assert num_paid > 50


def test_a_bonus_is_lent_while_a_match_goes_on_and_taken_back_when_it_is_abandoned():
    automaton = build_automaton([((1, 2, 3), 2.0)], CHINESE)
    assert walk_one(automaton, [1, 2]) == ([2.0, 4.0], 0.0)
    assert walk_one(automaton, [1, 2, 5]) == ([2.0, 4.0, 0.0], 0.0)
    assert walk_one(automaton, [1, 2, 1, 2, 3]) == ([2.0, 4.0, 2.0, 4.0, 6.0], 6.0)


def test_overlapping_and_nested_phrases_are_paid_each():
    automaton = build_automaton([((1, 2), 1.0), ((2, 3), 1.0), ((1, 2, 3), 1.0), ((2,), 0.5)], CHINESE)
    assert walk_one(automaton, [1, 2, 3])[1] == 2 + 2 + 3 + 0.5


def test_a_phrase_matches_whole_words_only():
    phrases = [((1, 3), 1.0)]  # `▁b d`
    automaton = build_automaton(phrases, PIECES)
    assert walk_one(automaton, [1, 3])[1] == 2  # the end of the tokens ends a word
    assert walk_one(automaton, [1, 3, 0])[1] == 2
    assert walk_one(automaton, [1, 3, 4])[1] == 0  # `▁b d e` is another word
    letters = TokenKinds(np.arange(V) == 0, np.arange(V) == 0, np.ones(V, bool))  # 0 is a blank
    automaton = build_automaton(phrases, letters)
    assert walk_one(automaton, [0, 1, 3, 0])[1] == walk_one(automaton, [1, 3])[1] == 2
    assert walk_one(automaton, [4, 1, 3])[1] == walk_one(automaton, [1, 3, 4])[1] == 0


def test_ten_thousand_phrases_of_a_large_vocabulary_fit():
    rng, size = np.random.default_rng(1), 8404
    kinds = TokenKinds(*np.ones((3, size), bool))
    phrases = [(tuple(rng.integers(3, size, rng.integers(2, 6)).tolist()), 1.0) for _ in range(10_000)]
    automaton = build_automaton(phrases, kinds)
    assert sum(column.nbytes for column in automaton) < 4 << 20
    for phrase, _ in phrases[::2000]:
        fusion = HotwordFusion(TokenFusion(None, (), 0.0), automaton)
        state = functools.reduce(fusion.extend, (7, *phrase, 7), fusion.start())
        assert fusion.finish(state) >= len(phrase)


def random_logits(rng):
    return (1.5 * rng.normal(size=SHAPE)).astype(np.float32)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def slow_search(log_q_uv, tried, phrases, kinds):
    """Return the best of all rows of tokens."""

    def score(row):
        return sum(log_q_uv[u, token] for u, token in enumerate(row)) + slow_bonus(row, phrases, kinds)

    return list(max(itertools.product(*tried), key=score))


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_the_search_returns_the_best_of_all_rows_of_tokens(kinds):
    rng, length = np.random.default_rng(2), 4
    num_changed = 0
    for number in (2, 10):
        phrases = random_phrases(rng, number, 3)
        logits = random_logits(rng)
        results = search_exactly(logits, np.full(3, length), build_automaton(phrases, kinds))
        logits, tokens_bu, confidence_bu = (np.asarray(values)[:, :length] for values in (logits, *results))
        for logits_uv, tokens_u, confidence_u in zip(logits, tokens_bu, confidence_bu, strict=True):
            log_q_uv, best_u = log_softmax(logits_uv), logits_uv.argmax(1)
            # A special token is only taken where it is the best one.
            tried = [[v for v in range(V) if kinds.is_ordinary_v[v] or v == best] for best in best_u]
            expected = slow_search(log_q_uv, tried, phrases, kinds)
            assert tokens_u.tolist() == expected
            np.testing.assert_allclose(confidence_u, np.exp(log_q_uv[np.arange(length), tokens_u]), rtol=1e-5)
            num_changed += expected != best_u.tolist()
    assert num_changed > 2


def slow_ctc(logits_tv, phrases, kinds):
    """Return the tokens of the best of all paths."""
    log_q_tv, best_t = log_softmax(logits_tv), logits_tv.argmax(1)
    tried = [[v for v in range(V) if kinds.is_ordinary_v[v] or v in (0, best)] for best in best_t]

    def score(path):
        tokens = [token for token, _ in itertools.groupby(path) if token]
        return sum(log_q_tv[t, label] for t, label in enumerate(path)) + slow_bonus(tokens, phrases, kinds)

    path = max(itertools.product(*tried), key=score)
    return [token for token, _ in itertools.groupby(path) if token]


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_the_ctc_search_returns_the_tokens_of_the_best_path(kinds):
    rng, length = np.random.default_rng(3), 4
    for number in (3, 8):
        phrases = [(tokens, bonus) for tokens, bonus in random_phrases(rng, number, 3) if 0 not in tokens]
        logits = random_logits(rng)
        result = search_ctc_exactly(logits, np.full(3, length), build_automaton(phrases, kinds))
        for row, logits_tv in enumerate(logits[:2, :length]):
            tokens = np.asarray(result.tokens_bu[row, : result.token_lengths_b[row]]).tolist()
            assert tokens == slow_ctc(logits_tv, phrases, kinds)


def test_without_a_hot_word_in_reach_the_search_is_greedy():
    rng, lengths_b = np.random.default_rng(4), np.array([7, 4, 0])
    logits = random_logits(rng)
    automaton = build_automaton([((5, 5, 5, 5, 5, 5, 5, 5), 0.5)], CHINESE)  # longer than the rows
    for found, expected in zip(search_exactly(logits, lengths_b, automaton), greedy(logits, lengths_b), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    found, expected = search_ctc_exactly(logits, lengths_b, automaton), ctc_greedy(logits, lengths_b)
    for name in expected._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)


def test_a_token_of_a_hot_word_is_tried_however_improbable():
    logits = np.tile(np.arange(V, dtype=np.float32), (*SHAPE[:2], 1))  # the best token is 5
    automaton = build_automaton([((0, 1), 5.0)], CHINESE)
    tokens_bu, _ = search_narrowly(logits, np.array([3, 2, 1]), automaton)
    assert np.asarray(tokens_bu)[0, :3].tolist() in ([0, 1, 5], [5, 0, 1])
    assert np.asarray(tokens_bu)[1:, :2].tolist() == [[0, 1], [5, 0]]


def test_large_bonuses_of_phrases_that_are_not_completed_do_no_harm():
    rng, length = np.random.default_rng(7), 7
    for number in (5, 40):
        phrases = [(tokens, 10 * bonus) for tokens, bonus in random_phrases(rng, number, 12) if len(tokens) > length]
        logits = random_logits(rng)
        tokens_bu, _ = search_narrowly(logits, np.full(3, length), build_automaton(phrases, CHINESE))
        np.testing.assert_array_equal(tokens_bu, logits.argmax(-1))
    logits_tv = np.full((2, V), -5.0)
    logits_tv[[0, 1], [1, 2]] = 5.0
    logits_tv[:, 3] = -20.0  # not tried
    fusion = HotwordFusion(TokenFusion(None, (), 0.0), build_automaton([((4, 3), 50.0)], CHINESE))
    (best,) = ctc_beam_search(logits_tv, fusion=fusion, beam_size=1)
    assert best.tokens == (1, 2)


def test_a_row_has_the_same_tokens_alone_and_beside_others():
    rng = np.random.default_rng(5)
    automaton = build_automaton(random_phrases(rng, 10), CHINESE)
    logits, lengths_b = random_logits(rng), np.array([7, 5, 2])
    together, _ = search_exactly(logits, lengths_b, automaton)
    padded = np.where(np.arange(7)[None, :, None] < lengths_b[:, None, None], logits, np.nan)
    for row in range(3):
        alone, _ = search_exactly(np.roll(padded, -row, 0), np.roll(lengths_b, -row), automaton)
        np.testing.assert_array_equal(alone[0], together[row])


def test_the_prefix_search_adds_the_bonus_to_the_summed_probability():
    rng = np.random.default_rng(6)
    phrases = [((1, 2), 1.5), ((3,), 0.7), ((2, 2), 0.4)]
    automaton, logits_tv = build_automaton(phrases, MIXED), random_logits(rng)[0, :4]
    exact = {"beam_size": 10_000, "num_tokens": 100, "threshold": math.inf}
    plain = {hypothesis.tokens: hypothesis.score for hypothesis in ctc_beam_search(logits_tv, **exact)}
    fusion = HotwordFusion(TokenFusion(None, (), 0.0), automaton)
    for hypothesis in ctc_beam_search(logits_tv, fusion=fusion, **exact):
        expected = plain[hypothesis.tokens] + slow_bonus(list(hypothesis.tokens), phrases, MIXED)
        assert hypothesis.score == pytest.approx(expected, abs=1e-4)
