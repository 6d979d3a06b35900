"""Beam search and fusion against all paths counted one by one; the frames of its tokens."""

import dataclasses
import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from asr.decode import TokenFusion, WordFusion, ctc_beam_search, ctc_spans, make_fusion
from asr.decode.arpa import NgramModel
from asr.errors import UserError

EXACT = {"beam_size": 10_000, "num_tokens": 100, "threshold": math.inf}


@dataclasses.dataclass
class Speller:
    """A tokenizer in a few lines: "▁" stands for a blank, at the start of a token or alone."""

    tokens: tuple[str, ...]

    def decode(self, ids):
        return " ".join("".join(self.tokens[i] for i in ids).replace("▁", " ").split())

    def word_starts(self, ids):
        return [i == 0 or self.tokens[token].startswith("▁") for i, token in enumerate(ids)]


LETTERS = Speller(("<blank>", "a", "b", "▁"))
PIECES = Speller(("<blank>", "▁a", "b", "▁b"))


def random_model(words, order, seed=0):
    """Return a model with some of all n-grams; it need not be normalised."""
    rng = np.random.default_rng(seed)
    scores = {(word,): (-rng.uniform(0.5, 3), -rng.uniform(0, 1)) for word in (*words, "<s>", "</s>")}
    for n in range(2, order + 1):
        for gram in itertools.product((*words, "<s>"), repeat=n):
            if rng.random() < 0.5:
                scores[gram] = (-rng.uniform(0.1, 2), -rng.uniform(0, 1))
    return NgramModel(order, scores)


def make_logits(frames, vocab=4, seed=0):
    return 1.5 * np.random.default_rng(seed).normal(size=(frames, vocab))


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def collapse(path):
    return tuple(token for token, _ in itertools.groupby(path) if token)


def slow_search(logits):
    """Return token sequence → log probability, over all paths."""
    log_q = log_softmax(logits)
    found = defaultdict(float)
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        found[collapse(path)] += math.exp(sum(log_q[t, token] for t, token in enumerate(path)))
    return {tokens: math.log(probability) for tokens, probability in found.items()}


def slow_sentence(model, words):
    """Return ln P(words </s>) by the chain rule with whole histories."""
    total, history = 0.0, ["<s>"]
    for word in [*words, "</s>"]:
        total += model.log_probability(model.context(history), word)
        history.append(word)
    return total


def assert_same(found, expected):
    """Compare all hypotheses with {tokens: score}, and their order."""
    assert {h.tokens for h in found} == set(expected)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.tokens], abs=1e-9), hypothesis
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_without_pruning_all_probabilities_are_exact(seed):
    logits = make_logits(6, seed=seed)
    found = ctc_beam_search(logits, **EXACT)
    expected = slow_search(logits)
    assert_same(found, expected)
    assert sum(math.exp(h.score) for h in found) == pytest.approx(1)
    assert all(h.score == h.ctc_log_probability for h in found)


def test_the_most_probable_sequence_is_not_the_most_probable_path():
    logits = np.log([[0.6, 0.4], [0.6, 0.4]])  # best path: blanks, 0.36; but the token has 0.64
    best, second = ctc_beam_search(logits)
    assert best.tokens == (1,) and math.exp(best.score) == pytest.approx(0.64)
    assert second.tokens == () and math.exp(second.score) == pytest.approx(0.36)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("length_bonus", [0.0, 0.7])
def test_token_fusion_is_the_sum_that_it_states(order, length_bonus):
    model = random_model(LETTERS.tokens[1:], order)
    fusion = make_fusion(model, LETTERS, weight=0.4, length_bonus=length_bonus)
    assert isinstance(fusion, TokenFusion)
    logits = make_logits(5)
    expected = {
        tokens: log_p + 0.4 * slow_sentence(model, [LETTERS.tokens[i] for i in tokens]) + length_bonus * len(tokens)
        for tokens, log_p in slow_search(logits).items()
    }
    assert_same(ctc_beam_search(logits, fusion=fusion, **EXACT), expected)


@pytest.mark.parametrize("speller", [LETTERS, PIECES], ids=["letters", "pieces"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_word_fusion_is_the_sum_that_it_states(speller, order):
    model = random_model(("a", "b", "ab", "bb", "aba"), order)  # "aa" and others are unknown
    fusion = make_fusion(model, speller, weight=0.6, length_bonus=0.3)
    assert isinstance(fusion, WordFusion)
    logits = make_logits(6, seed=order)
    expected = {}
    for tokens, log_p in slow_search(logits).items():
        words = speller.decode(tokens).split()
        expected[tokens] = log_p + 0.6 * slow_sentence(model, words) + 0.3 * len(words)
    assert_same(ctc_beam_search(logits, fusion=fusion, **EXACT), expected)


def test_a_bonus_without_a_model_counts_tokens():
    logits = make_logits(5)
    fusion = make_fusion(None, LETTERS, length_bonus=0.9)
    expected = {tokens: log_p + 0.9 * len(tokens) for tokens, log_p in slow_search(logits).items()}
    assert_same(ctc_beam_search(logits, fusion=fusion, **EXACT), expected)


def test_a_model_that_knows_neither_start_nor_end():
    model = NgramModel(2, {("a",): (-1.0, 0.0), ("b",): (-2.0, 0.0)})
    fusion = make_fusion(model, LETTERS, weight=1.0)
    state = fusion.extend(fusion.start(), 1)
    assert fusion.start().context == () and fusion.finish(state) == -1.0


def test_a_language_model_changes_the_answer():
    logits = np.log([[0.02, 0.44, 0.54]])
    tokens = Speller(("<blank>", "a", "b"))
    model = NgramModel(1, {("a",): (-0.1, 0.0), ("b",): (-3.0, 0.0), ("</s>",): (-1.0, 0.0)})
    assert ctc_beam_search(logits)[0].tokens == (2,)
    for beam_size in (1, 10):
        assert ctc_beam_search(logits, beam_size=beam_size, fusion=make_fusion(model, tokens, 0.5))[0].tokens == (1,)


def test_a_narrow_beam_keeps_the_best_prefixes():
    logits = make_logits(8, vocab=5, seed=3)
    wide = ctc_beam_search(logits, **EXACT)
    for beam_size in (1, 5, 20):
        found = ctc_beam_search(logits, beam_size=beam_size)
        assert 1 <= len(found) <= beam_size
        known = {h.tokens: h.score for h in wide}
        assert all(h.score <= known[h.tokens] + 1e-9 for h in found), "pruned paths can only be missing"
    assert found[0].tokens == wide[0].tokens and found[0].score == pytest.approx(wide[0].score, abs=0.15)


def test_pruned_tokens_are_not_tried():
    logits = np.log([[0.1, 0.5, 0.3, 0.1]])
    for settings, tokens in [({"num_tokens": 1}, {(), (1,)}), ({"threshold": 0.6}, {(), (1,), (2,)})]:
        assert {h.tokens for h in ctc_beam_search(logits, **settings)} == tokens


@pytest.mark.parametrize("blank", [1, 3])
def test_the_blank_may_be_any_token(blank):
    logits = make_logits(4, seed=5)
    order = [blank, *(i for i in range(4) if i != blank)]
    expected = {tuple(order[i] for i in tokens): p for tokens, p in slow_search(logits[:, order]).items()}
    assert_same(ctc_beam_search(logits, blank=blank, **EXACT), expected)


def test_no_frames_give_the_empty_answer():
    fusion = make_fusion(random_model(("a", "b", "▁"), 2), LETTERS, weight=0.5)
    (found,) = ctc_beam_search(np.zeros((0, 4)), fusion=fusion)
    assert found.tokens == () and found.score == pytest.approx(0.5 * slow_sentence(fusion.model, []))


def test_a_language_model_in_another_case_is_refused():
    with pytest.raises(UserError, match=r"none of the language model's words, as 'YES'.*upper and lower case"):
        make_fusion(NgramModel(1, {("YES",): (-1.0, 0.0), ("NO",): (-1.0, 0.0)}), LETTERS)


# ---- frames of the tokens ----


def slow_spans(logits, tokens):
    """Return (first, last) of each token on the best of all paths that spell the tokens."""
    log_q = log_softmax(logits)
    paths = (p for p in itertools.product(range(logits.shape[1]), repeat=len(logits)) if collapse(p) == tuple(tokens))
    best = max(paths, key=lambda path: sum(log_q[t, token] for t, token in enumerate(path)))
    runs = [(token, list(frames)) for token, frames in itertools.groupby(range(len(best)), key=lambda t: best[t])]
    return [(frames[0], frames[-1]) for token, frames in runs if token]


@pytest.mark.parametrize("tokens", [(), (1,), (2, 1), (1, 1), (3, 3, 1), (1, 2, 3, 1, 2, 3)], ids=str)
def test_spans_are_those_of_the_best_path(tokens):
    for seed in range(4):
        logits = make_logits(6, seed=seed)
        spans = ctc_spans(logits, tokens)
        assert list(zip(spans.first_frame_u.tolist(), spans.last_frame_u.tolist(), strict=True)) == slow_spans(
            logits, tokens
        )
        for token, first, last, confidence in zip(tokens, *spans, strict=True):
            assert confidence == pytest.approx(np.exp(log_softmax(logits)[first : last + 1, token].max()))


def test_tokens_that_cannot_fit_are_refused():
    with pytest.raises(ValueError, match="at least 3 frames for these 2 tokens, found 2"):
        ctc_spans(make_logits(2), (1, 1))
    assert ctc_spans(make_logits(3), (1, 1)).last_frame_u.tolist() == [0, 2]
    assert len(ctc_spans(np.zeros((0, 4)), ()).first_frame_u) == 0
