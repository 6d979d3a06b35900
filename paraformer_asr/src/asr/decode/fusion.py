"""What a language model adds to the score of a beam search: shallow fusion of tokens or of words.

    score(tokens) = ln P_ctc(tokens) + weight · ln P_lm(units) + length_bonus · number of units

The units are the model's own: tokens, if all its words are tokens of the recogniser; words otherwise. A word is scored
when the next one begins, the last one at the end, `</s>` behind it. The bonus balances the language model's
preference for short sentences.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from asr.decode.arpa import END, NgramModel
from asr.errors import UserError


class Speller(Protocol):
    """What is needed of the tokenizer."""

    tokens: tuple[str, ...]  # all tokens; the place of one is its number

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that the tokens spell."""

    def word_starts(self, ids: Sequence[int]) -> list[bool]:
        """Return for each token whether a word begins with it; that depends on the token before it at most."""


@dataclasses.dataclass(frozen=True)
class FusionState:
    """What is known of a prefix."""

    score: float = 0.0  # weighted log probability and bonus of the units that are complete
    context: tuple[str, ...] = ()  # units that the next one depends on
    word: tuple[int, ...] = ()  # tokens of the word that is not complete; word fusion only


@dataclasses.dataclass(frozen=True)
class TokenFusion:
    """A language model of tokens, or none: then only the bonus counts."""

    model: NgramModel | None  # of the tokens' names, or None
    tokens: Sequence[str]  # all tokens; the place of one is its number. Without a model it is not looked at
    weight: float  # factor on the model's natural logarithms
    length_bonus: float = 0.0  # added for each token

    def start(self) -> FusionState:
        """Return the state of the empty prefix."""
        return FusionState(context=self.model.start if self.model else ())

    def extend(self, state: FusionState, token: int) -> FusionState:
        """Return the state after one more token."""
        if self.model is None:
            return FusionState(state.score + self.length_bonus)
        return _add_unit(self.model, state, self.tokens[token], self.weight, self.length_bonus)

    def finish(self, state: FusionState) -> float:
        """Return the score of a prefix that ends here."""
        return state.score + _end_score(self.model, state.context, self.weight)


@dataclasses.dataclass(frozen=True)
class WordFusion:
    """A language model of words."""

    model: NgramModel  # of words as the speller writes them
    speller: Speller  # knows where words begin and what they are
    weight: float  # factor on the model's natural logarithms
    length_bonus: float = 0.0  # added for each word

    def start(self) -> FusionState:
        """Return the state of the empty prefix."""
        return FusionState(context=self.model.start)

    def extend(self, state: FusionState, token: int) -> FusionState:
        """Return the state after one more token."""
        if state.word and self.speller.word_starts((state.word[-1], token))[1]:
            state = self._complete(state)
        return dataclasses.replace(state, word=(*state.word, token))

    def finish(self, state: FusionState) -> float:
        """Return the score of a prefix that ends here."""
        state = self._complete(state)
        return state.score + _end_score(self.model, state.context, self.weight)

    def _complete(self, state: FusionState) -> FusionState:
        text = self.speller.decode(state.word)
        if not text:  # a blank alone, or nothing
            return state
        return _add_unit(self.model, state, text, self.weight, self.length_bonus)


Fusion = TokenFusion | WordFusion
"""How the score grows with each token. States are values: a prefix can be extended in several ways."""


def make_fusion(model: NgramModel | None, speller: Speller, weight: float = 0.5, length_bonus: float = 0.0) -> Fusion:
    """Return the fusion that fits a language model from `read_arpa`, or None for the bonus alone.

    Raises:
        UserError: no word of the model can be spelled with the recogniser's tokens.
    """
    if model is None or set(model.words) <= set(speller.tokens):
        return TokenFusion(model, speller.tokens, weight, length_bonus)
    alphabet = set("".join(speller.tokens))
    if not any(set(word) <= alphabet for word in model.words):
        raise UserError(
            f"none of the language model's words, as {model.words[0]!r}, can be spelled with the recogniser's tokens; "
            "compare upper and lower case"
        )
    return WordFusion(model, speller, weight, length_bonus)


def _add_unit(model: NgramModel, state: FusionState, unit: str, weight: float, length_bonus: float) -> FusionState:
    """Return the state after one more unit, no word being open."""
    score = state.score + weight * model.log_probability(state.context, unit) + length_bonus
    return FusionState(score, model.context((*state.context, unit)))


def _end_score(model: NgramModel | None, context: tuple[str, ...], weight: float) -> float:
    """Return the weighted score of the end of the sentence; 0 where the model knows of none."""
    return weight * model.log_probability(context, END) if model and END in model else 0.0
