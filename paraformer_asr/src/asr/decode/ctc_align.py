"""The frames of each token on the most probable CTC path that spells given tokens.

Letters: t frames, u token positions, v vocabulary, s states.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import numpy as np


class CtcSpans(NamedTuple):
    """Where each token lies."""

    first_frame_u: np.ndarray  # int32[u], first frame of each token
    last_frame_u: np.ndarray  # int32[u], last frame of each token; the next token begins behind it
    confidence_u: np.ndarray  # float64[u], the largest probability of the token in its frames


def ctc_spans(logits_tv: np.ndarray, tokens: Sequence[int], blank: int = 0) -> CtcSpans:
    """Return the frames of the tokens on their best path (Viterbi), with which a beam search's answer gets its times.

    `logits_tv` are those of one utterance's real frames; the tokens are without blanks.

    Raises:
        ValueError: the tokens, and the blanks between equal ones, are more than the frames.
    """
    chex.assert_rank(logits_tv, 2)
    log_q_tv = log_softmax(logits_tv)
    spoken_u = np.asarray(tokens, np.int64)
    state_token_s = np.full(2 * len(spoken_u) + 1, blank)
    state_token_s[1::2] = spoken_u  # blank, token, blank, token, …, blank
    needed = len(spoken_u) + int(np.sum(spoken_u[1:] == spoken_u[:-1]))
    if needed > len(log_q_tv):
        raise ValueError(f"expected at least {needed} frames for these {len(spoken_u)} tokens, found {len(log_q_tv)}")
    path_t = _best_path(log_q_tv[:, state_token_s], _may_skip(state_token_s, blank))
    first_u, last_u, confidence_u = np.zeros(len(spoken_u), int), np.zeros(len(spoken_u), int), np.zeros(len(spoken_u))
    for u, token in enumerate(spoken_u):
        frames = np.flatnonzero(path_t == 2 * u + 1)
        first_u[u], last_u[u] = frames[0], frames[-1]
        confidence_u[u] = np.exp(log_q_tv[frames, token].max())
    return CtcSpans(first_u.astype(np.int32), last_u.astype(np.int32), confidence_u)


def log_softmax(logits_tv: np.ndarray) -> np.ndarray:
    """Return float64[t, v], the log probability of each token, on the host."""
    logits_tv = np.asarray(logits_tv, np.float64)
    shifted_tv = logits_tv - logits_tv.max(axis=1, keepdims=True)
    return shifted_tv - np.log(np.exp(shifted_tv).sum(axis=1, keepdims=True))


def _may_skip(state_token_s: np.ndarray, blank: int) -> np.ndarray:
    """Return bool[s], True where a state may follow the one two before it: no blank between unequal tokens."""
    skip_s = np.zeros(len(state_token_s), bool)
    skip_s[2:] = (state_token_s[2:] != blank) & (state_token_s[2:] != state_token_s[:-2])
    return skip_s


def _best_path(log_q_ts: np.ndarray, skip_s: np.ndarray) -> np.ndarray:
    """Return the state of each frame on the best path from a first state (0 or 1) to a last one: int[t]."""
    num_frames, num_states = log_q_ts.shape
    score_s = np.full(num_states, -np.inf)
    score_s[0] = 0.0  # before the first frame: the blank in front
    steps_ts = np.zeros((num_frames, num_states), np.int8)  # by how many states the path came forward
    for t in range(num_frames):
        # Column k: the score of coming from k states before.
        from_s3 = np.full((num_states, 3), -np.inf)
        from_s3[:, 0] = score_s
        from_s3[1:, 1] = score_s[:-1]
        from_s3[2:, 2] = np.where(skip_s[2:], score_s[:-2], -np.inf)
        steps_ts[t] = from_s3.argmax(axis=1)
        score_s = from_s3.max(axis=1) + log_q_ts[t]
    path_t = np.zeros(num_frames, int)
    state = num_states - 1 if num_states == 1 or score_s[-1] >= score_s[-2] else num_states - 2
    for t in range(num_frames - 1, -1, -1):
        path_t[t] = state
        state -= steps_ts[t, state]
    return path_t
