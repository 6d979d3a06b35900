"""A model's answer beside what was said, both brought to one form by one function.

A model writes a text in one way only: `今天 hello` comes out as `今天hello`, `c n n` as `CNN`. Both sides are therefore
cut into tokens and joined again as an answer is, so that what the model cannot tell apart is no error. What the
tokenizer has no token for stays as it is, and is an error.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from asr.data.text.letter_case import in_case
from asr.data.text.tokenizer import Tokenizer
from asr.data.text.word_pieces import is_unspaced
from asr.metrics import ErrorCounts, character_errors, count_errors, word_errors

MAX_ROUNDS = 8
"""Most times that a text is cut and joined until it stays the same."""

MAX_GROWTH = 4
"""A list of words that makes a text longer at each round is damaged; blanks between characters double it."""

MAX_WORD_CHARACTERS = 12
"""Words that are longer on average are no words, whatever the script: German and Finnish have 6 to 8 characters."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One utterance's answer beside the truth.

    Attributes:
        reference: what is said, in the form that is compared.
        hypothesis: what was understood, in the same form.
        tokens: errors in tokens, special ones left out.
    """

    reference: str
    hypothesis: str
    tokens: ErrorCounts

    @property
    def words(self) -> ErrorCounts:
        """Errors in words."""
        return word_errors(self.reference, self.hypothesis)

    @property
    def characters(self) -> ErrorCounts:
        """Errors in characters."""
        return character_errors(self.reference, self.hypothesis)


def compare(tokenizer: Tokenizer, text: str, ids: Iterable[int]) -> Comparison:
    """Return an answer beside the truth.

    Where tokens are pieces of a given list, several rows of them spell one text: there the tokens that are compared
    are those of the two compared texts. Elsewhere they are those of the reference and those of the answer.

    Args:
        tokenizer: of the model.
        text: the truth, as the data set writes it.
        ids: tokens of the answer; special ones count nowhere.
    """
    said = [int(i) for i in ids if tokenizer.is_ordinary(int(i))]
    reference, hypothesis = comparable(tokenizer, text), comparable(tokenizer, tokenizer.decode(said))
    if _is_listed(tokenizer):
        tokens = count_errors(tokenizer.rewrite(reference), tokenizer.rewrite(hypothesis))
    else:
        tokens = count_errors(tokenizer.encode(reference), said)
    return Comparison(reference, hypothesis, tokens)


def comparable(tokenizer: Tokenizer, text: str) -> str:
    """Return a text in the form in which references and answers are compared.

    It is normalised as in training, in the case of the vocabulary if that has one alone, and spelled as the model would
    spell it.
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
    """Return the case in which texts are compared, in words."""
    case = tokenizer.text_case if tokenizer.only_case == "keep" else tokenizer.only_case
    return {"lower": "in lower case", "upper": "in upper case", "keep": "case counts"}[case]


def suit_characters(tokenizer: Tokenizer, texts: Sequence[str]) -> bool:
    """Return whether characters tell answers apart better than words do: texts without blanks between their words.

    That is so if most words have letters of a script without blanks and more than 1.5 characters on average, as Chinese
    sentences; if words have more than MAX_WORD_CHARACTERS characters in any script; or if the model writes most words
    without blanks between them, as one of FunASR's with single Latin letters does.

    Args:
        tokenizer: of the model.
        texts: as the data set writes them.
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
