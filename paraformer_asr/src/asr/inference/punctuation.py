"""Puts signs behind the words of a text, with CT-Transformer.

    punctuator = asr.load("ct-punc")
    punctuator.punctuate("今天天气很好我们去公园")  # 今天天气很好，我们去公园。

In mode natural, the default, what stands in a text already stays, and no sign is put beside another. Mode exact writes
FunASR's texts.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.config.parsing import parse_override
from asr.config.punctuation import PunctuationConfig
from asr.errors import UserError
from asr.inference.punctuation_network import PunctuationNetwork
from asr.inference.punctuation_words import PunctuatedWords
from asr.inference.typesetting import split_parts, split_text
from asr.inference.words import Word, join_words
from asr.models import count_parameters
from asr.published.funasr_punctuation import load_funasr_punctuation
from asr.untrusted import shown

if TYPE_CHECKING:
    from asr.inference.punctuation_stream import PunctuationStream

MAX_TEXT = 1 << 24  # longest text, in characters


@dataclasses.dataclass(frozen=True)
class Punctuated:
    """A text with signs, and what it is made of.

    Attributes:
        text: with signs.
        words: without; in mode exact each non-ASCII character is one.
        signs: the sign that was put behind each word, as the model names it, "" for none.
    """

    text: str
    words: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()


class Punctuator:
    """A punctuation model.

    Attributes:
        config: its settings; `mode` is "natural" or "exact".
        network: what it computes with.
    """

    def __init__(self, config: PunctuationConfig, words: Sequence[str], variables: Any):
        self.config, self.network = config, PunctuationNetwork(config, words, variables)

    def __repr__(self) -> str:
        kind = "streaming" if self.config.streaming else "offline"
        number = count_parameters(self.network.variables)
        return f"Punctuator({kind}, {self.config.mode}, {self.config.vocab_size} words, {number:,} parameters)"

    def punctuate(self, text: str) -> str:
        """Return a text of any length with signs; an empty one for a text of blanks.

        Raises:
            UserError: not a text, or one that is too long.
        """
        return self.analyse(text).text

    def analyse(self, text: str) -> Punctuated:
        """Return a text with signs, and the sign of each word; errors as of `punctuate`."""
        check_text(text)
        if self.config.mode == "natural":
            words = [Word(word, 0.0, 0.0, 1.0, space_before=blank) for word, blank in split_text(text)]
            written = self._write(words)
            signs = tuple(word.sign for word in written)
            return Punctuated(join_words(written), tuple(word.text for word in words), signs)
        if self.config.streaming:
            stream = self.stream()
            stream.accept(text)
            return stream.last
        words = [Word(word, 0.0, 0.0, 1.0) for word in split_parts(text)]
        writer = self.word_stream()
        written = [*writer.push(words), *writer.finish()]
        text = "".join(" " * word.space_before + word.text for word in written)  # a blank may begin it, as in FunASR
        return Punctuated(text, tuple(word.text for word in words), tuple(writer.signs))

    def signs(self, words: Sequence[str]) -> list[str]:
        """Return the sign to write behind each word, "" for none.

        A sign is as wide as the end of its word. None follows a word that ends with one already.

        Raises:
            UserError: not a sequence of texts.
        """
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise UserError(f"words: expected a sequence of texts, found {shown(words)}")
        return [word.sign for word in self._write([Word(word, 0.0, 0.0, 1.0) for word in words])]

    def stream(self) -> "PunctuationStream":
        """Return a stream: `accept(text, final=False)` takes text in pieces and returns what can be written.

        Raises:
            UserError: mode exact of a model that FunASR does not stream.
        """
        from asr.inference.punctuation_stream import make_stream

        return make_stream(self.network)

    def word_stream(self) -> PunctuatedWords:
        """Return what takes words and returns them with signs, as soon as they are decided."""
        return PunctuatedWords(self.network)

    def warm_up(self) -> None:
        """Compile all programs, so that no text waits for the compiler."""
        self.network.warm_up()

    def _write(self, words: Sequence[Word]) -> list[Word]:
        writer = self.word_stream()
        return [*writer.push(words), *writer.finish()]


def check_text(text: str) -> None:
    """Refuse what is no text, and a text that is too long."""
    if not isinstance(text, str):
        raise UserError(f"text: expected a str, found {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise UserError(f"text: expected at most {MAX_TEXT} characters, found {len(text)}; pass it in parts")


def load_punctuator(folder: str | Path, overrides: Sequence[str] = ()) -> Punctuator:
    """Return the punctuation model in a folder of FunASR.

    Args:
        folder: of a CTTransformer or CTTransformerStreaming.
        overrides: `mode=exact` or `mode=natural`.

    Raises:
        UserError: no such model, or one that does not fit its config.
    """
    config, words, variables = load_funasr_punctuation(Path(folder))
    for override in overrides:
        if not str(override).startswith("mode="):
            raise UserError(f"override {shown(override)}: a punctuation model has one setting, mode=natural or exact")
        config = parse_override(config, override)
    return Punctuator(config, words, variables)
