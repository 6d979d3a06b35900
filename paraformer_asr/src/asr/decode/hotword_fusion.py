"""Hot words in the beam search on the host, beside a language model or alone."""

import bisect
import dataclasses
import functools

from asr.decode.fusion import Fusion, FusionState
from asr.decode.hotword_automaton import ROOT, START, HotwordAutomaton


@dataclasses.dataclass(frozen=True)
class HotwordState:
    """What is known of a prefix."""

    score: float  # the other fusion's, and the bonus so far, what is lent included
    other: FusionState  # of the other fusion
    place: int  # state of the automaton
    bonus: float = 0.0  # its part of the score
    lent: float = 0.0  # what of it may be taken back


@dataclasses.dataclass(frozen=True, eq=False)
class HotwordFusion:
    """Another fusion's score, plus that of `asr.decode.hotword_automaton.step`."""

    other: Fusion
    automaton: HotwordAutomaton

    def start(self) -> HotwordState:
        """Return the state of the empty prefix."""
        other = self.other.start()
        return HotwordState(other.score, other, START)

    def extend(self, state: HotwordState, token: int) -> HotwordState:
        """Return the state after one more token."""
        other, columns, place, bonus = self.other.extend(state.other, token), self._columns, state.place, state.bonus
        if columns["begins_v"][token]:
            place, paid = self._close(place)
            bonus += paid
        place = self._goto(place, token)
        if columns["ends_v"][token]:
            place, paid = self._close(place)
            bonus += paid
        lent = columns["potential_s"][place]
        bonus += lent - state.lent
        return HotwordState(other.score + bonus, other, place, bonus, lent)

    def finish(self, state: HotwordState) -> float:
        """Return the score of a prefix that ends here."""
        _, paid = self._close(state.place)
        return self.other.finish(state.other) + state.bonus + paid - state.lent

    def _close(self, place: int) -> tuple[int, float]:
        """Return the state behind the end of a word, and what that pays; nothing if the word has ended already."""
        closed = self._columns["closed_s"][place]
        return closed, self._columns["payoff_s"][closed] if closed != place else 0.0

    def _goto(self, place: int, token: int) -> int:
        columns = self._columns
        while True:
            first = columns["first_child_s"][place]
            end = first + columns["num_children_s"][place]
            child = bisect.bisect_left(columns["symbol_s"], token, first, end)
            if child < end and columns["symbol_s"][child] == token:
                return child
            if place == ROOT:
                return ROOT
            place = columns["suffix_s"][place]

    @functools.cached_property
    def _columns(self) -> dict[str, list]:
        """The arrays as lists, whose elements Python reads faster than numpy's."""
        return {name: column.tolist() for name, column in self.automaton._asdict().items()}
