"""The Aho–Corasick automaton of hot words, in arrays that a jitted search walks.

A state is the longest suffix of the tokens so far that begins some phrase. Phrases match whole words only: `#`, a sign
between two words that is no token, stands at both ends of each phrase and is read wherever the tokens have a boundary.

    # n e w #           a phrase in characters
    # ▁ne w #           the same in pieces: `▁` begins a word
    # 张 # 三 #         each Chinese character is a word

What the walk from state s to s' adds to a score is

    gain = potential[s'] − potential[s] + payoff[s']

The payoff is the whole bonus of the phrases that end in s'. The potential is a loan: the bonus of the matched part of a
phrase that may still be completed, so that a beam keeps it. It is taken back when the match is completed or abandoned,
and a row of tokens has in the end the payoffs of the phrases it holds, and nothing else.

Letters: s states, v vocabulary, p phrases, u tokens of a phrase with its signs.

Reference: Aho and Corasick 1975, "Efficient String Matching: An Aid to Bibliographic Search"; the loan is that of
icefall's context graph.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ROOT = 0  # nothing is matched, within a word
START = 1  # `#`: nothing is matched, a word may begin
MIN_STATES = 1 << 14
"""Fewest states of the arrays: lists of up to a thousand names share one compiled program."""


class HotwordAutomaton(NamedTuple):
    """States numbered breadth first: the children of one have consecutive numbers, in the order of their symbols."""

    symbol_s: np.ndarray  # int32, what leads into a state: a token, or V for `#`
    first_child_s: np.ndarray  # int32, the first state that continues this one
    num_children_s: np.ndarray  # int32, how many do
    suffix_s: np.ndarray  # int32, the longest shorter match (failure link)
    closed_s: np.ndarray  # int32, the state after `#`; the same if that was read last
    potential_s: np.ndarray  # float32, bonus lent, in nats
    payoff_s: np.ndarray  # float32, bonus of the phrases that end here, in nats
    begins_v: np.ndarray  # bool, a word begins at this token
    ends_v: np.ndarray  # bool, a word ends at this token
    is_ordinary_v: np.ndarray  # bool, no special token
    is_hot_v: np.ndarray  # bool, an ordinary token of some phrase

    @property
    def num_states(self) -> int:
        """Size of the arrays, padding included: the only thing that a compiled program depends on."""
        return len(self.symbol_s)


class TokenKinds(NamedTuple):
    """What the automaton needs to know of each token of the vocabulary, as the tokenizer counts words."""

    begins_v: np.ndarray  # bool, a word begins at this token, whatever is before it
    ends_v: np.ndarray  # bool, a word ends at this token, whatever follows
    is_ordinary_v: np.ndarray  # bool, no special token


def build_automaton(phrases: Sequence[tuple[Sequence[int], float]], kinds: TokenKinds) -> HotwordAutomaton:
    """Return the automaton of phrases, its number of states padded to a power of two.

    Args:
        phrases: (token ids, bonus of each token in nats), none of them empty; of equal ones the largest bonus counts.
        kinds: of the tokens.
    """
    begins_v, ends_v, is_ordinary_v = (np.asarray(flags, bool) for flags in kinds)
    is_hot_v = np.zeros(len(begins_v), bool)
    is_hot_v[[token for tokens, _ in phrases for token in tokens]] = True
    trie = _Trie(len(begins_v))
    trie.grow(*_add_signs(phrases, begins_v, ends_v))
    columns = trie.columns()
    size = max(MIN_STATES, 1 << (len(columns[0]) - 1).bit_length())
    padded = (np.pad(column, (0, size - len(column))) for column in columns)
    return HotwordAutomaton(*padded, begins_v, ends_v, is_ordinary_v, is_hot_v & is_ordinary_v)


def _add_signs(phrases, begins_v: np.ndarray, ends_v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the symbols of each phrase, −1 behind its end, and the bonus of its tokens up to each: [p, u] both."""
    boundary, rows = len(begins_v), []
    for tokens, bonus in phrases:
        row = [(boundary, 0.0)]
        for place, token in enumerate(tokens):
            if place and (begins_v[token] or ends_v[tokens[place - 1]]):
                row.append((boundary, bonus * place))
            row.append((token, bonus * (place + 1)))
        rows.append([*row, (boundary, bonus * len(tokens))])
    shape = len(rows), max(map(len, rows))
    symbols_pu, bonus_pu = np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
    for number, row in enumerate(rows):
        symbols_pu[number, : len(row)], bonus_pu[number, : len(row)] = zip(*row, strict=True)
    return symbols_pu, bonus_pu


class _Trie:
    """The states while they are made, level by level, all phrases at once."""

    def __init__(self, boundary: int):
        self.boundary, self.num_symbols = boundary, boundary + 1
        self.levels = [slice(0, 1)]  # the states of each depth
        self.key_s = np.array([-1])  # parent · symbols + symbol: ascending, as states are numbered breadth first
        self.lent_s, self.own_s = np.zeros(1, np.float32), np.zeros(1, np.float32)

    def grow(self, symbols_pu: np.ndarray, bonus_pu: np.ndarray) -> None:
        """Make a state for each different beginning of a phrase."""
        state_p = np.zeros(len(symbols_pu), np.int64)
        going_p1 = np.zeros((len(symbols_pu), 1), bool)
        goes_on_pu = np.hstack([symbols_pu[:, 1:] >= 0, going_p1])
        for u in range(symbols_pu.shape[1]):
            is_there_p = symbols_pu[:, u] >= 0
            keys = state_p[is_there_p] * self.num_symbols + symbols_pu[is_there_p, u]
            new_keys, number = np.unique(keys, return_inverse=True)
            count = len(self.key_s)
            state_p[is_there_p] = count + number
            self.levels.append(slice(count, count + len(new_keys)))
            self.key_s = np.concatenate([self.key_s, new_keys])
            blank = np.zeros(len(new_keys), np.float32)
            self.lent_s, self.own_s = np.concatenate([self.lent_s, blank]), np.concatenate([self.own_s, blank])
            for bonus_s, chosen_p in ((self.lent_s, goes_on_pu[:, u]), (self.own_s, is_there_p & ~goes_on_pu[:, u])):
                np.maximum.at(bonus_s, state_p[chosen_p], bonus_pu[chosen_p, u])

    def columns(self) -> tuple[np.ndarray, ...]:
        """Return the columns of `HotwordAutomaton` by state, from `symbol_s` to `payoff_s`."""
        parent_s, symbol_s = np.divmod(self.key_s, self.num_symbols)
        parent_s[ROOT], symbol_s[ROOT] = ROOT, -1
        suffix_s, closed_s = np.zeros_like(parent_s), np.arange(len(parent_s))
        closed_s[ROOT] = START
        for level in self.levels[1:]:
            # A suffix is shorter than its state: all that is read here was written for an earlier level.
            suffix_s[level] = self._suffixes(suffix_s, parent_s[level], symbol_s[level])
            self.lent_s[level] = np.maximum(self.lent_s[level], self.lent_s[suffix_s[level]])
            self.own_s[level] += self.own_s[suffix_s[level]]
            child = self._children(np.arange(level.start, level.stop), np.full(level.stop - level.start, self.boundary))
            closed = np.where(child >= 0, child, closed_s[suffix_s[level]])
            closed_s[level] = np.where(symbol_s[level] == self.boundary, closed_s[level], closed)
        states = np.arange(len(parent_s))
        first_s = np.searchsorted(parent_s[1:], states) + 1
        number_s = np.searchsorted(parent_s[1:], states, side="right") + 1 - first_s
        whole = (column.astype(np.int32) for column in (symbol_s, first_s, number_s, suffix_s, closed_s))
        return (*whole, self.lent_s, self.own_s)

    def _suffixes(self, suffix_s: np.ndarray, parents: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """Return the longest shorter match of the children of `parents`: that of the parent, continued if it can be."""
        state, suffix = parents.copy(), np.where(parents == ROOT, ROOT, -1)
        while (is_open := suffix < 0).any():
            at_root = state[is_open] == ROOT
            state[is_open] = suffix_s[state[is_open]]
            child = self._children(state[is_open], symbols[is_open])
            suffix[is_open] = np.where(at_root, ROOT, child)
        return suffix

    def _children(self, states: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """Return the child of each state for a symbol, −1 where there is none."""
        keys = states * self.num_symbols + symbols
        place = np.minimum(np.searchsorted(self.key_s, keys), len(self.key_s) - 1)
        return np.where(self.key_s[place] == keys, place, -1)


def step(automaton: HotwordAutomaton, state: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the states after one more token each, and what that adds to the scores, in nats.

    Args:
        automaton: of the hot words, numpy's or jax's arrays.
        state: int32[…].
        token: int32[…] of the same shape.
    """
    begins, ends = jnp.asarray(automaton.begins_v)[token], jnp.asarray(automaton.ends_v)[token]
    closed_s, payoff_s, potential_s = map(jnp.asarray, (automaton.closed_s, automaton.payoff_s, automaton.potential_s))
    # A sign that was read already pays no second time.
    opened = jnp.where(begins, closed_s[state], state)
    payoff = jnp.where(opened != state, payoff_s[opened], 0.0)
    inside = _goto(automaton, opened, token)
    after = jnp.where(ends, closed_s[inside], inside)
    payoff += jnp.where(after != inside, payoff_s[after], 0.0)
    return after, payoff + potential_s[after] - potential_s[state]


def finish(automaton: HotwordAutomaton, state: jax.Array) -> jax.Array:
    """Return what the end of the tokens adds to the scores, which ends a word: float32[…] for int32[…]."""
    closed_s, payoff_s, potential_s = map(jnp.asarray, (automaton.closed_s, automaton.payoff_s, automaton.potential_s))
    closed = closed_s[state]
    return jnp.where(closed != state, payoff_s[closed], 0.0) - potential_s[state]


def _goto(automaton: HotwordAutomaton, state: jax.Array, symbol: jax.Array) -> jax.Array:
    """Return the states after one more symbol: the child of the longest suffix that has one, or the root."""
    suffix_s = jnp.asarray(automaton.suffix_s)

    def shorten(carry):
        state, after = carry
        child = _child(automaton, state, symbol)
        child = jnp.where((child < 0) & (state == ROOT), ROOT, child)
        return suffix_s[state], jnp.where(after < 0, child, after)

    # Each round shortens the match, so there are at most as many as the longest phrase has symbols.
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1] < 0), shorten, (state, jnp.full_like(state, -1)))[1]


def _child(automaton: HotwordAutomaton, state: jax.Array, symbol: jax.Array) -> jax.Array:
    """Return the child of each state for a symbol, −1 where there is none, by binary search among its children."""
    symbol_s = jnp.asarray(automaton.symbol_s)
    first = jnp.asarray(automaton.first_child_s)[state]
    end = first + jnp.asarray(automaton.num_children_s)[state]

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        is_left = symbol_s[middle] < symbol
        return jnp.where(is_left & (low < high), middle + 1, low), jnp.where(is_left, high, middle)

    rounds = (len(automaton.begins_v) + 1).bit_length()
    low, _ = jax.lax.fori_loop(0, rounds, halve, (first, end))
    return jnp.where((low < end) & (symbol_s[low] == symbol), low, -1)
