"""Brings a transcript and its reference to one form before their errors are counted.

A model writes a text in one way only: `今天 hello` comes out as `今天hello`, `c n n` as `CNN`. Both sides are therefore
cut into tokens and joined again, so that a distinction the model cannot write is not an error. Parts without a token
stay as they are, and are errors.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from asr.data.text.pieces import is_unspaced
from asr.data.text.tokenizer import Tokenizer, in_case
from asr.metrics import ErrorCounts, character_errors, count_errors, word_errors

MAX_ROUNDS = 8  # most times that a text is cut and joined until it stays the same
MAX_GROWTH = 4
"""Largest growth of a text in these rounds. Spaces between characters double it; a damaged list has no limit."""

MAX_WORD_CHARACTERS = 12  # largest mean length of words: German and Finnish have 6 to 8 characters


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One utterance's transcript beside its reference."""

    reference: str  # the true text, in the form that is compared
    hypothesis: str  # the transcript, in the same form
    tokens: ErrorCounts  # errors in tokens, without special ones

    @property
    def words(self) -> ErrorCounts:
        """Errors in words."""
        return word_errors(self.reference, self.hypothesis)

    @property
    def characters(self) -> ErrorCounts:
        """Errors in characters."""
        return character_errors(self.reference, self.hypothesis)


def compare(tokenizer: Tokenizer, text: str, ids: Iterable[int]) -> Comparison:
    """Return a transcript beside its reference; special tokens among its `ids` are ignored.

    Several rows of tokens from a given list may spell one text, so there the tokens of the two compared texts are
    compared. Otherwise the tokens of the reference are compared with those of the transcript.
    """
    ordinary_ids = [int(i) for i in ids if tokenizer.is_ordinary(int(i))]
    reference, hypothesis = comparable(tokenizer, text), comparable(tokenizer, tokenizer.decode(ordinary_ids))
    if _is_listed(tokenizer):
        tokens = count_errors(tokenizer.rewrite(reference), tokenizer.rewrite(hypothesis))
    else:
        tokens = count_errors(tokenizer.encode(reference), ordinary_ids)
    return Comparison(reference, hypothesis, tokens)


def comparable(tokenizer: Tokenizer, text: str) -> str:
    """Return a text in the form in which references and transcripts are compared.

    It is normalised as in training, in the case of the vocabulary if that has only one, and spelled as the model
    spells it.
    """
    text = in_case(tokenizer.normalise(text), tokenizer.only_case)
    if not _is_listed(tokenizer):
        return text
    longest = MAX_GROWTH * len(text)
    for _ in range(MAX_ROUNDS):
        before = text
        text = in_case(tokenizer.join(tokenizer.rewrite(before)), tokenizer.only_case)
        if text == before or len(text) > longest:
            break
    return text


def comparison_case(tokenizer: Tokenizer) -> str:
    """Return a phrase for the case in which texts are compared."""
    case = tokenizer.text_case if tokenizer.only_case == "keep" else tokenizer.only_case
    return {"lower": "in lower case", "upper": "in upper case", "keep": "case counts"}[case]


def suit_characters(tokenizer: Tokenizer, texts: Sequence[str]) -> bool:
    """Return whether errors should be counted in characters, not words: the texts have no spaces between words.

    So it is if most words have letters of a script without spaces and more than 1.5 characters on average, as Chinese
    sentences; if words have more than MAX_WORD_CHARACTERS characters in any script; or if the model writes most words
    without spaces between them, as a FunASR model with single Latin letters does.
    """
    words = [word for text in texts for word in comparable(tokenizer, text).split()]
    if not words:
        return False
    mean_length = sum(map(len, words)) / len(words)
    unspaced = 2 * sum(any(map(is_unspaced, word)) for word in words) > len(words)
    joined = 2 * len(words) <= sum(len(text.split()) for text in texts)
    return mean_length > MAX_WORD_CHARACTERS or joined or (unspaced and mean_length > 1.5)


def _is_listed(tokenizer: Tokenizer) -> bool:
    return tokenizer.kind in ("file", "funasr")
