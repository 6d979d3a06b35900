"""The windows in which a punctuation network reads a text of any length.

A window is what the windows before left undecided, and 20 new words. All up to its last sentence end is decided, but
for its last word, whose right side is not known; the rest waits for the next window. A window of more than 200 words
without a sentence end is cut at its last comma, which becomes a full stop. The last window is decided whole.

    exact     a sentence end at the first or second word is overlooked, and a window without a comma grows, as in FunASR
    natural   neither; without a comma all but the last 20 words are decided
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from asr.config.punctuation import NO_SIGN, UNKNOWN_SIGN, PunctuationConfig
from asr.errors import UserError
from asr.inference.typesetting import COMMAS, ENDS

NEW_WORDS = 20
LONG_WINDOW = 200  # words without a sentence end before a comma will do
MAX_WINDOW = 4096
"""Longest window of mode exact, in words: the time for a text without commas grows with the square of its length."""


class Part(NamedTuple):
    """What the network takes for one word."""

    text: str
    number: int  # in the vocabulary
    word: int  # index of the word that it belongs to
    is_last: bool = True  # of that word; no sign stands within one
    own: str | None = None  # the sign that is there already, "" for none; None: the network decides


class Decided(NamedTuple):
    """A part and the sign behind it, "" for none."""

    part: Part
    sign: str


Score = Callable[[Sequence[int], int], np.ndarray]
"""(numbers of the words, number of old ones) → float32[t, c]."""


@dataclasses.dataclass
class Windows:
    """Decides the signs of parts that arrive in pieces.

    Attributes:
        config: of the model.
        score: the network.
        num_old: the first parts of the text that were there before the rest; for streaming.
        waiting: parts that no window has read yet.
        last: the signs of all parts of the last window.
    """

    config: PunctuationConfig
    score: Score
    num_old: int = 0
    waiting: list[Part] = dataclasses.field(default_factory=list)
    last: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self._kept: list[Part] = []
        self._is_exact = self.config.mode == "exact"
        self._ends, self._commas = ({"。", "？"}, {"，"}) if self._is_exact else (ENDS, COMMAS)

    def push(self, parts: Sequence[Part]) -> list[list[Decided]]:
        """Add parts; return what is decided now, a list for each window. The last part is never among them."""
        self.waiting += parts
        groups = []
        while len(self.waiting) > NEW_WORDS:
            groups.append(self._decide(is_last=False))
        return groups

    def finish(self) -> list[list[Decided]]:
        """Return all that was not decided; the text has ended."""
        return [self._decide(is_last=True)] if self.waiting else []

    def _decide(self, *, is_last: bool) -> list[Decided]:
        window = self._kept + self.waiting[:NEW_WORDS]
        self.waiting = self.waiting[NEW_WORDS:]
        if len(window) > MAX_WINDOW:
            raise UserError(
                f"punctuation: {len(window)} words without a sentence end or a comma; mode exact reads at most "
                f"{MAX_WINDOW} together, as its time grows with their square: use mode natural"
            )
        self.last = signs = self._signs(window)
        stop = len(window) if is_last else self._find_cut(signs)
        self._kept = window[stop:]
        return [Decided(part, sign) for part, sign in zip(window[:stop], signs, strict=False)]

    def _signs(self, window: Sequence[Part]) -> list[str]:
        """Return the sign behind each part."""
        names = self.config.signs
        scores_tc = np.array(self.score([part.number for part in window], self.num_old))
        if not self._is_exact and UNKNOWN_SIGN in names:
            scores_tc[:, names.index(UNKNOWN_SIGN)] = -np.inf  # no text has this sign
        signs = ["" if names[best] == NO_SIGN else names[best] for best in scores_tc.argmax(axis=1)]
        if self._is_exact:
            return signs
        signs = [sign if part.own is None else part.own for part, sign in zip(window, signs, strict=True)]
        return [sign if part.is_last else "" for part, sign in zip(window, signs, strict=True)]

    def _find_cut(self, signs: list[str]) -> int:
        """Return how many parts of a window are decided; the comma that it is cut at becomes a full stop."""
        first = 2 if self._is_exact else 0
        places = range(len(signs) - 2, first - 1, -1)
        end = next((i for i in places if signs[i][:1] in self._ends), None)
        if end is not None:
            return end + 1
        if len(signs) <= LONG_WINDOW:
            return 0
        comma = next((i for i in places if signs[i][:1] in self._commas), None)
        if comma is not None:
            signs[comma] = self.config.signs[self.config.full_stop]
            return comma + 1
        return 0 if self._is_exact else len(signs) - NEW_WORDS
