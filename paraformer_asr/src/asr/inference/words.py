"""From token numbers with times to tokens and words that can be read."""

from collections.abc import Sequence

import numpy as np

from asr.data.text.pieces import is_ideograph
from asr.data.text.tokenizer import Tokenizer
from asr.inference.transcript import Token, Word


def make_tokens(
    tokenizer: Tokenizer, ids_u: np.ndarray, start_s_u: np.ndarray, end_s_u: np.ndarray, confidence_u: np.ndarray
) -> tuple[tuple[int, ...], tuple[Token, ...]]:
    """Return the numbers of the ordinary tokens, and these tokens; special ones are left out.

    Args:
        tokenizer: of the model.
        ids_u: int[u].
        start_s_u: float[u], in seconds.
        end_s_u: float[u].
        confidence_u: float[u], 0 to 1.
    """
    columns = zip(ids_u, start_s_u, end_s_u, confidence_u, strict=True)
    rows = [(int(i), *map(float, values)) for i, *values in columns if tokenizer.is_ordinary(int(i))]
    return tuple(row[0] for row in rows), tuple(Token(tokenizer.tokens[i], *values) for i, *values in rows)


def make_words(tokenizer: Tokenizer, ids: Sequence[int], tokens: Sequence[Token]) -> tuple[Word, ...]:
    """Return the words that the tokens spell; joined with their blanks they are `tokenizer.decode(ids)`.

    A word is as certain as its least certain token.

    Args:
        tokenizer: of the model.
        ids: ordinary tokens.
        tokens: the same with their times.
    """
    words = []
    for text, start, stop, space in tokenizer.spell(ids):
        surfaces = ((tokenizer.surface(ids[i]), tokens[i]) for i in range(start, stop))
        parts = tuple(Token(part, t.start_s, t.end_s, t.confidence) for part, t in surfaces if part)
        confidence = min(part.confidence for part in parts)
        words.append(Word(text, parts[0].start_s, parts[-1].end_s, confidence, parts, space))
    return tuple(words)


def needs_space(before: str, after: str) -> bool:
    """Return whether a blank belongs between the texts of two segments: not between Chinese or Japanese characters.

    Their punctuation counts as such a character.
    """
    return bool(before and after) and not (_without_blank(before[-1]) and _without_blank(after[0]))


def _without_blank(character: str) -> bool:
    return is_ideograph(character) or "\u3000" <= character <= "\u303f" or "\uff00" <= character <= "\uff9f"
