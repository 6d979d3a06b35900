"""Tokens and words with their times.

Neither jax nor numpy is imported here, so that `asr infer` answers a mistake at once.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from asr.data.text.tokenizer import Tokenizer

CLOSING = "\"'”’)\\]）】》」』"
"""Quotes and brackets that may stand behind a sign, as a range of a regular expression."""
SENTENCE_END = re.compile(rf"[。？！.?!][{CLOSING}]*$")


@dataclasses.dataclass(frozen=True)
class Token:
    """One unit of the model's output.

    Attributes:
        text: as in the vocabulary.
        start_s: when it begins, from the start of the sound.
        end_s: when it ends.
        confidence: the model's probability, 0 to 1.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class Word:
    """The text between two blanks, or one character of a script written without blanks.

    Attributes:
        text: without blanks.
        start_s: when it begins, from the start of the sound.
        end_s: when it ends.
        confidence: that of its least certain token.
        parts: its tokens, with their texts as they appear in the word.
        space_before: a blank separates it from the word before.
        sign: the punctuation that `text` ends with, added by a punctuation model.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float
    parts: tuple[Token, ...] = ()
    space_before: bool = True
    sign: str = ""

    @property
    def letters(self) -> str:
        """The text without the sign."""
        return self.text.removesuffix(self.sign)

    @property
    def ends_sentence(self) -> bool:
        """Whether the text ends with the end of a sentence, quotes and brackets behind it aside."""
        return bool(SENTENCE_END.search(self.text))


def join_words(words: Sequence[Word]) -> str:
    """Return the words as a text, with blanks where they belong."""
    return "".join(f" {w.text}" if w.space_before and i else w.text for i, w in enumerate(words))


def split_sentences(words: Sequence[Word]) -> list[Sequence[Word]]:
    """Return the words of each sentence; those behind the last sentence end are one, too."""
    stops = [i for i, word in enumerate(words, 1) if word.ends_sentence or i == len(words)]
    return [words[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def make_tokens(
    tokenizer: "Tokenizer",
    ids_u: "np.ndarray",
    start_s_u: "np.ndarray",
    end_s_u: "np.ndarray",
    confidence_u: "np.ndarray",
) -> tuple[tuple[int, ...], tuple[Token, ...]]:
    """Return the ids of the ordinary tokens, and these tokens, their times in seconds; special ones are left out."""
    columns = zip(ids_u, start_s_u, end_s_u, confidence_u, strict=True)
    rows = [(int(i), *map(float, values)) for i, *values in columns if tokenizer.is_ordinary(int(i))]
    return tuple(row[0] for row in rows), tuple(Token(tokenizer.tokens[i], *values) for i, *values in rows)


def make_words(tokenizer: "Tokenizer", ids: Sequence[int], tokens: Sequence[Token]) -> tuple[Word, ...]:
    """Return the words that ordinary tokens spell; joined with their blanks they are `tokenizer.decode(ids)`."""
    words = []
    for text, start, stop, space in tokenizer.spell(ids):
        surfaces = ((tokenizer.surface(ids[i]), tokens[i]) for i in range(start, stop))
        parts = tuple(Token(part, t.start_s, t.end_s, t.confidence) for part, t in surfaces if part)
        confidence = min(part.confidence for part in parts)
        words.append(Word(text, parts[0].start_s, parts[-1].end_s, confidence, parts, space))
    return tuple(words)
