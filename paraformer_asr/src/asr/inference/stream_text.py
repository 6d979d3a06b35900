"""The text of a stream: tokens in, what is new in the text out. What was written once stays.

A token of a word's middle or end is written as it comes; only a piece that the tokenizer cannot place yet waits for the
next token. So the text grows, in all and by each event, and its parts joined are the text of all tokens together.
"""

import dataclasses
from collections.abc import Sequence

from asr.data.text.tokenizer import Tokenizer
from asr.inference.recognition import COLUMNS, NOTHING, Recognition, join
from asr.inference.words import Token, Word, join_words, make_tokens, make_words

MOST_WAITING = 256  # tokens that are spelled again while one of them is in no word


@dataclasses.dataclass(frozen=True)
class NewText:
    """What some tokens add to a text."""

    text: str  # that is new, with the blank before it
    token_ids: tuple[int, ...]  # that came, special ones included
    tokens: tuple[Token, ...]  # the ordinary ones


class StreamText:
    """The growing text of one segment.

    Attributes:
        text: what was written so far.
        recognition: all tokens of the segment.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self.text = tokenizer, ""
        self._all: list[Recognition] = []
        self._rest = NOTHING  # tokens of the last words: their text may go on
        self._written = ""  # the text of the rest, as far as it was written

    @property
    def recognition(self) -> Recognition:
        """All tokens."""
        return join(self._all)

    def push(self, recognition: Recognition) -> NewText:
        """Return what the next tokens add."""
        self._all.append(recognition)
        self._rest = join([self._rest, recognition])
        words = self._spell(self._rest)
        text = join_words(words)
        # A text that does not begin with what was written waits for the tokens that make it do so.
        new = text[len(self._written) :] if text.startswith(self._written) else ""
        self.text, self._written = self.text + new, self._written + new
        self._forget(words)
        return NewText(new, tuple(int(i) for i in recognition.ids), self._tokens(recognition)[1])

    def _forget(self, words: Sequence[Word]) -> None:
        """Drop the tokens of all but the last two words: a stream of hours has no more to spell than one of seconds.

        Tokens that are in no word yet may go to a later one, so nothing before them is dropped.
        """
        if len(words) < 3 or self._written != join_words(words):
            return
        ids, _ = self._tokens(self._rest)
        num_waiting = len(ids) - sum(len(word.parts) for word in words)
        if num_waiting and len(ids) < MOST_WAITING:
            return
        num_kept = sum(len(word.parts) for word in words[-2:])
        for first in range(len(self._rest.ids) - num_kept, 0, -1):
            rest = dataclasses.replace(self._rest, **{name: getattr(self._rest, name)[first:] for name in COLUMNS})
            kept = self._spell(rest)
            if [word.text for word in kept] == [word.text for word in words[-2:]]:
                self._rest, self._written = rest, join_words(kept)
                return

    def _spell(self, recognition: Recognition) -> tuple[Word, ...]:
        return make_words(self._tokenizer, *self._tokens(recognition))

    def _tokens(self, recognition: Recognition) -> tuple[tuple[int, ...], tuple[Token, ...]]:
        times_s = recognition.start_s, recognition.end_s
        return make_tokens(self._tokenizer, recognition.ids, *times_s, recognition.confidence)
