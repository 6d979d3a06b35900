"""CTC prefix beam search: the most probable token sequence, not the most probable path, with a language model if asked.

Many paths spell one sequence. The search keeps the best prefixes and for each the probability of all its paths, those
that end on a blank apart from those that end on its last token: a repeated token makes a new one only after a blank.

It runs on the host, in float64. Letters: t frames, v vocabulary.

Reference: Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
DNNs", algorithm 1.
"""

import dataclasses
import heapq
import math
from typing import Self

import chex
import numpy as np

from asr.decode.ctc_align import log_softmax
from asr.decode.fusion import Fusion, FusionState, TokenFusion
from asr.decode.hotword_fusion import HotwordFusion, HotwordState

LOG_ZERO = -math.inf


@dataclasses.dataclass(frozen=True)
class BeamHypothesis:
    """One answer of the search."""

    tokens: tuple[int, ...]  # without blanks
    score: float  # to be maximised: ctc_log_probability plus the fusion's terms
    ctc_log_probability: float  # natural logarithm of the summed probability of the paths that were kept


def ctc_beam_search(
    logits_tv: np.ndarray,
    *,
    beam_size: int = 10,
    fusion: Fusion | HotwordFusion | None = None,
    blank: int = 0,
    num_tokens: int = 40,
    threshold: float = 12.0,
) -> list[BeamHypothesis]:
    """Return the best token sequences, best first: at most `beam_size`, at least one (which may be empty).

    With a wide beam and without pruning of tokens the probabilities are exact.

    Args:
        logits_tv: float[t, v], of one utterance's real frames; log probabilities will do as well.
        beam_size: prefixes kept after each frame.
        fusion: language model and length bonus, from `asr.decode.fusion.make_fusion`, with hot words or without.
        blank: the blank's token.
        num_tokens: new tokens tried in each frame, the best ones.
        threshold: tokens this far below the best one of a frame, in natural logarithms, are not tried.
    """
    chex.assert_rank(logits_tv, 2)
    fusion = fusion or TokenFusion(None, (), 0.0)
    beam = {_Prefix(None, None, fusion.start()): (0.0, LOG_ZERO)}
    for log_q_v in log_softmax(logits_tv):
        tried = _tokens_to_try(log_q_v, blank, num_tokens, threshold)
        grown = _grow(beam, log_q_v, tried, blank, fusion)
        beam = dict(heapq.nlargest(beam_size, grown.items(), key=_score))
        if isinstance(fusion, HotwordFusion):  # phrases that are not completed must not push out all the others
            safest, both = max(grown.items(), key=lambda item: _score(item) - item[0].state.lent)
            beam[safest] = both
    hypotheses = (
        BeamHypothesis(prefix.tokens(), total + fusion.finish(prefix.state), total)
        for prefix, total in ((prefix, _log_add(*both)) for prefix, both in beam.items())
    )
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)[:beam_size]


class _Prefix:
    """A token sequence as a node of a tree: each is made once, so that its paths meet again."""

    __slots__ = ("before", "children", "state", "token")

    def __init__(self, before: Self | None, token: int | None, state: FusionState | HotwordState):
        self.before, self.token, self.state = before, token, state
        self.children: dict[int, Self] = {}

    def extend(self, token: int, fusion: Fusion | HotwordFusion) -> Self:
        child = self.children.get(token)
        if child is None:
            child = self.children[token] = type(self)(self, token, fusion.extend(self.state, token))
        return child

    def tokens(self) -> tuple[int, ...]:
        tokens, node = [], self
        while node.before is not None:
            tokens.append(node.token)
            node = node.before
        return tuple(reversed(tokens))


def _score(item: tuple[_Prefix, tuple[float, float]]) -> float:
    """Return what is to be maximised of a prefix with its log probabilities."""
    prefix, both = item
    return _log_add(*both) + prefix.state.score


def _grow(beam: dict, log_q_v: np.ndarray, tried: list[int], blank: int, fusion: Fusion | HotwordFusion) -> dict:
    """Return all prefixes after one more frame, each with the log probabilities (on a blank, on its last token)."""
    grown: dict[_Prefix, tuple[float, float]] = {}
    log_blank = float(log_q_v[blank])
    for prefix, (on_blank, on_token) in beam.items():
        total = _log_add(on_blank, on_token)
        old_blank, old_token = grown.get(prefix, (LOG_ZERO, LOG_ZERO))
        again = on_token + float(log_q_v[prefix.token]) if prefix.token is not None else LOG_ZERO
        grown[prefix] = _log_add(old_blank, total + log_blank), _log_add(old_token, again)
        for token in tried:
            source = on_blank if token == prefix.token else total
            if source > LOG_ZERO:
                child = prefix.extend(token, fusion)
                old_blank, old_token = grown.get(child, (LOG_ZERO, LOG_ZERO))
                grown[child] = old_blank, _log_add(old_token, source + float(log_q_v[token]))
    return grown


def _tokens_to_try(log_q_v: np.ndarray, blank: int, num_tokens: int, threshold: float) -> list[int]:
    near = np.flatnonzero(log_q_v >= log_q_v.max() - threshold)
    near = near[near != blank]
    return near[np.argsort(-log_q_v[near], kind="stable")][:num_tokens].tolist()


def _log_add(a: float, b: float) -> float:
    """Return ln(e^a + e^b)."""
    if a < b:
        a, b = b, a
    return a if b == LOG_ZERO else a + math.log1p(math.exp(b - a))
