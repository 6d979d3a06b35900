"""Adds signs to words that arrive one after another: the same signs, however they arrive."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from asr.inference.punctuation_network import PunctuationNetwork
from asr.inference.punctuation_windows import Decided, Part, Windows
from asr.inference.typesetting import ENDS, ExactTypesetter, NaturalTypesetter, close_exactly, split_own_sign
from asr.inference.words import Token, Word


class PunctuatedWords:
    """Words in, the same words with signs and capitals out, as soon as their window is decided.

    Attributes:
        signs: in mode exact, of each part that was decided, as the model names them, "" for none.
    """

    def __init__(self, network: PunctuationNetwork):
        self._network, self._is_exact = network, network.config.mode == "exact"
        self._windows = Windows(network.config, network.score)
        self._typesetter = ExactTypesetter() if self._is_exact else NaturalTypesetter()
        self._waiting: collections.deque[Word] = collections.deque()
        self._num_written = 0
        self._text, self._blank, self._sign = "", False, ""  # of the word whose parts are being written
        self.signs: list[str] = []

    def push(self, words: Sequence[Word]) -> list[Word]:
        """Add words; return those that are decided now, the next ones in order."""
        new: list[Part] = []
        for word in words:
            parts = self._network.parts(word.text, self._num_written + len(self._waiting))
            if not parts and split_own_sign(word.text)[1]:
                self._claim(new or self._windows.waiting, word.text)
            self._waiting.append(word)
            new += parts
        return list(self._write(self._windows.push(new)))

    def finish(self) -> list[Word]:
        """Return the rest; the last word ends a sentence."""
        groups = self._windows.finish()
        if groups and not self._is_exact:
            part, sign = groups[-1][-1]
            groups[-1][-1] = Decided(part, sign if sign[:1] in ENDS else self._stop)
        words = [*self._write(groups), *self._plain(self._num_written + len(self._waiting))]
        if self._is_exact and words and words[-1].text.strip():
            words[-1] = self._closed(words[-1])
        return words

    def _closed(self, last: Word) -> Word:
        """Return the last word with FunASR's end of a text."""
        text = close_exactly(last.text)
        if text == last.text:
            return last
        self.signs[-1] = self._stop
        return _written(last, text[:-1], text[-1], last.space_before)

    @property
    def _stop(self) -> str:
        return self._network.config.signs[self._network.config.full_stop]

    @staticmethod
    def _claim(parts: list[Part], sign: str) -> None:
        """Note that a sign of the text itself follows the last of the parts."""
        if parts and parts[-1].own is None:
            parts[-1] = parts[-1]._replace(own=sign)

    def _write(self, groups: Iterable[Sequence[Decided]]) -> Iterator[Word]:
        for group in groups:
            self._typesetter.start_part()
            for part, sign in group:
                yield from self._plain(part.word)
                if self._is_exact:
                    self.signs.append(sign)
                    self._add(part.text, False, sign)
                elif part.is_last:
                    word = self._waiting[0]
                    self._add(word.text, word.space_before, sign if part.own is None else "")
                if part.is_last:
                    yield self._done()

    def _plain(self, stop: int) -> Iterator[Word]:
        """Yield the words before place `stop` that have no parts: signs of the text itself."""
        while self._num_written < stop:
            self._add(self._waiting[0].text, self._waiting[0].space_before, "")
            yield self._done()

    def _add(self, text: str, space_before: bool, sign: str) -> None:
        """Write a part of the word that comes next, and its sign."""
        text, blank = self._typesetter.word(text, space_before) if text else ("", False)
        if not self._text:
            self._blank = blank
        self._text += self._sign + " " * (blank and bool(self._text)) + text
        self._sign = self._typesetter.sign(sign) if text else ""

    def _done(self) -> Word:
        word = _written(self._waiting.popleft(), self._text, self._sign, self._blank)
        self._num_written += 1
        self._text, self._blank, self._sign = "", False, ""
        return word


def _written(word: Word, text: str, sign: str, blank: bool) -> Word:
    """Return a word with another text and a sign; the texts of its parts, joined, stay the text of the word."""
    parts = word.parts
    if parts:
        rest = "".join(part.text for part in parts[1:])
        if text.endswith(rest) and len(text) > len(rest):
            parts = (dataclasses.replace(parts[0], text=text[: len(text) - len(rest)]), *parts[1:])
        else:
            parts = (Token(text, word.start_s, word.end_s, word.confidence),)
        parts = (*parts[:-1], dataclasses.replace(parts[-1], text=parts[-1].text + sign))
    return dataclasses.replace(word, text=text + sign, parts=parts, space_before=blank, sign=sign)
