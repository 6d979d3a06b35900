"""Punctuation of text that arrives in pieces.

    stream = punctuator.stream()
    text = stream.accept("hello world please") + stream.accept("send the report", final=True)

What `accept` returns, joined, is the text with its signs. A model made for streaming decides all but the sign behind
the last word at once; one that is not decides a window later.
"""

from collections.abc import Sequence
from typing import Protocol

from asr.errors import UserError
from asr.inference.punctuation import Punctuated, check_text
from asr.inference.punctuation_network import PunctuationNetwork
from asr.inference.punctuation_windows import LONG_WINDOW, Decided, Part, Windows
from asr.inference.punctuation_words import PunctuatedWords
from asr.inference.typesetting import ENDS, NaturalTypesetter, split_own_sign, split_parts, split_text
from asr.inference.words import Word


class PunctuationStream(Protocol):
    """One text that arrives in pieces; `last` is what the last call decided."""

    last: Punctuated

    def accept(self, text: str, final: bool = False) -> str:
        """Return what can be written after this piece; with `final` all of it, and the next piece begins a new text."""


def make_stream(network: PunctuationNetwork) -> PunctuationStream:
    """Return a stream of a model in its mode."""
    if network.config.mode == "natural":
        return OnlineStream(network) if network.config.streaming else DelayedStream(network)
    if not network.config.streaming:
        raise UserError("mode exact: FunASR streams a CTTransformerStreaming only; stream this one in mode natural")
    return ExactStream(network)


class DelayedStream:
    """A stream of a model that reads whole windows."""

    def __init__(self, network: PunctuationNetwork):
        self._network, self.last = network, Punctuated("")
        self._writer = PunctuatedWords(network)

    def accept(self, text: str, final: bool = False) -> str:
        """Return what can be written after this piece; with `final` all of it, and the next piece begins a new text."""
        check_text(text)
        pieces = split_text(text)
        words = [Word(word, 0.0, 0.0, 1.0, space_before=blank or not i) for i, (word, blank) in enumerate(pieces)]
        written = self._writer.push(words) + (self._writer.finish() if final else [])
        out = "".join(" " * word.space_before + word.text for word in written)
        cores = tuple(word.text.removesuffix(word.sign) for word in written)
        self.last = Punctuated(out, cores, tuple(word.sign for word in written))
        if final:
            self._writer = PunctuatedWords(self._network)
        return out


class OnlineStream:
    """A stream of a model that was trained for it.

    The network reads the words since the last sentence end, at most 200, and the new ones. A sign that was written
    stays. The sign behind the last word waits for the next piece.
    """

    def __init__(self, network: PunctuationNetwork):
        self._network, self.last = network, Punctuated("")
        self._begin()

    def _begin(self) -> None:
        self._typesetter, self._old, self._open_sign = NaturalTypesetter(), [], ""

    def accept(self, text: str, final: bool = False) -> str:
        """Return what can be written after this piece; with `final` all of it, and the next piece begins a new text."""
        check_text(text)
        words, num_old = self._read(text), len(self._old)
        decided = self._decide([part for *_, parts in words for part in parts])
        out, signs = [], []
        if num_old and len(decided) > num_old:
            out.append(self._sign(decided[num_old - 1]))
        place = num_old
        for number, (word, blank, parts) in enumerate(words):
            shown, is_spaced = self._typesetter.word(word, blank or not number)
            place += len(parts)
            is_open = not parts or place == len(decided)
            signs.append("" if is_open else self._sign(decided[place - 1]))
            out += [" " * is_spaced, shown, signs[-1]]
        if final:
            out.append(self._close())
            signs[-1:] = [signs[-1] or out[-1]] if signs else []
            self._begin()
        self.last = Punctuated("".join(out), tuple(word for word, *_ in words), tuple(signs))
        return self.last.text

    def _read(self, text: str) -> list[tuple[str, bool, list[Part]]]:
        """Return (word, whether white space comes before it, parts) of the words of a piece."""
        words, before = [], self._old
        for place, (word, blank) in enumerate(split_text(text)):
            parts = self._network.parts(word, place)
            if not parts and before and before[-1].own is None and split_own_sign(word)[1]:
                before[-1] = before[-1]._replace(own=word)  # a sign of the text itself
            words.append((word, blank, parts))
            before = parts or before
        return words

    def _decide(self, new: list[Part]) -> list[Decided]:
        """Return the signs of the old words and the new ones, and keep those that the next piece needs."""
        if not new:
            return []
        windows = Windows(self._network.config, self._network.score, len(self._old))
        groups = windows.push(self._old + new) + windows.finish()
        decided = [each for group in groups for each in group]
        ends = [i for i, (_, sign) in enumerate(decided[:-1], 1) if sign[:1] in ENDS]
        *closed, last = decided[ends[-1] if ends else 0 :][-LONG_WINDOW:]
        self._old = [part._replace(own=sign) for part, sign in closed] + [last.part]
        self._open_sign = last.sign
        return decided

    def _sign(self, decided: Decided) -> str:
        """Write the sign behind the last word, unless the text has one of its own there."""
        return "" if decided.part.own is not None else self._typesetter.sign(decided.sign)

    def _close(self) -> str:
        """Write the end of the text."""
        if not self._old or self._old[-1].own is not None:
            return ""
        stop = self._network.config.signs[self._network.config.full_stop]
        return self._typesetter.sign(self._open_sign if self._open_sign[:1] in ENDS else stop)


class ExactStream:
    """FunASR's CTTransformerStreaming: no capitals, wide signs, and no sign at the end of a piece.

    `last.words` and `last.signs` are those of the last window, old words included, as FunASR's `punc_array`.
    """

    def __init__(self, network: PunctuationNetwork):
        self._network, self.last = network, Punctuated("")
        self._old: list[str] = []  # words since the last sentence end, with the blanks before them

    def accept(self, text: str, final: bool = False) -> str:
        """Return what can be written after this piece; with `final` the next piece begins a new text."""
        check_text(text)
        num_old = len(self._old)
        texts = split_parts("".join(self._old) + " " + text)
        self.last = Punctuated("")
        if len(texts) > num_old:  # FunASR fails without a new word
            parts = [part for place, text in enumerate(texts) for part in self._network.parts(text, place)]
            windows = Windows(self._network.config, self._network.score, num_old)
            decided = [each for group in windows.push(parts) + windows.finish() for each in group]
            words = _with_blanks(texts)
            out = _write_new(words, [sign for _, sign in decided], num_old)
            out = out[:-1] if out[-1] in self._network.config.signs else out
            ends = [i for i in range(2, len(decided) - 1) if decided[i].sign in ("。", "？")]
            self._old = words[ends[-1] + 1 :] if ends else words
            self.last = Punctuated(out, tuple(texts[len(texts) - len(windows.last) :]), tuple(windows.last))
        if final:
            self._old = []
        return self.last.text


def _with_blanks(words: Sequence[str]) -> list[str]:
    """Return the words, with a blank before each that begins in ASCII and follows one that ends so."""
    before = ["", *words]
    spaced = (word[0].isascii() and before[i][-1:].isascii() and i > 0 for i, word in enumerate(words))
    return [" " * blank + word for blank, word in zip(spaced, words, strict=True)]


def _write_new(words: Sequence[str], signs: Sequence[str], num_old: int) -> str:
    """Return the new words, and the signs from the one behind the last old word on."""
    out = list(signs[num_old - 1 : num_old]) if num_old else []
    for word, sign in zip(words[num_old:], signs[num_old:], strict=True):
        out += [word, sign]
    return "".join(out)
