"""Words as rows of tokens: cut into those of a given list where no trained model says how, and what tokens spell."""

import re
from collections.abc import Container, Sequence
from typing import NamedTuple

IDEOGRAPHS = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters and Japanese syllables, as a range of a regular expression: written without spaces."""

SPACE = "▁"
"""Stands for a blank in a token."""

CONTINUED = "@@"
"""End of a token that the next one is joined to."""

UNKNOWN_COST, BROKEN_COST, PIECE_COST = 1_000_000, 1_000, 1

UNSPACED = IDEOGRAPHS + "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""With Thai, Lao, Burmese and Khmer: scripts without a blank between two words."""

_ideograph, _unspaced = re.compile(f"[{IDEOGRAPHS}]"), re.compile(f"[{UNSPACED}]")


class Spelled(NamedTuple):
    """A word, or a character of a script without spaces, that a row of tokens spells.

    Attributes:
        text: without blanks.
        start: place of its first token in the row.
        stop: place behind its last one.
        space_before: a blank stands between it and the word before.
    """

    text: str
    start: int
    stop: int
    space_before: bool


def is_ideograph(character: str) -> bool:
    """Return whether a character is a word by itself, written without spaces around it."""
    return bool(_ideograph.match(character))


def is_unspaced(character: str) -> bool:
    """Return whether a character is of a script without a blank between two words."""
    return bool(_unspaced.match(character))


def word_starts(tokens: Sequence[str], *, continued: bool) -> list[bool]:
    """Return for each token whether a word begins with it; see `asr.data.text.tokenizer.Tokenizer.word_starts`.

    Args:
        tokens: a row of ordinary ones.
        continued: `@@` joins pieces to words; otherwise `▁` begins them.
    """
    flags, previous = [], ""
    for token in tokens:
        if continued:
            starts = not previous.endswith(CONTINUED)
        else:
            beside_ideograph = is_ideograph(token[0]) or is_ideograph(previous[-1:])
            starts = token[0] == SPACE or (beside_ideograph and previous != SPACE)
        flags.append(starts or not previous)
        previous = token
    return flags


def fewest_pieces(
    word: str, tokens: Container[str], longest: int, *, continued: bool = False
) -> list[tuple[str, str | None]]:
    """Return the word as a row of (characters, token), the token None for a character that none of them covers.

    Of all ways to cut the word the one with the fewest unknown characters is taken, then the one with the fewest
    pieces, then the one whose last pieces are longest.

    Args:
        word: not empty.
        tokens: the known ones.
        longest: length of the longest token.
        continued: all pieces but the last end in `@@` in the list of tokens. Where there is no such token the
            one without it is taken instead, and the word falls apart when it is decoded.
    """
    costs, cuts = [0], [(0, None)]  # of the first b characters: the lowest cost, and the last piece's start and token
    for b in range(1, len(word) + 1):
        found = [(costs[b - 1] + UNKNOWN_COST, b - 1, None)]
        for a in range(max(0, b - longest), b):
            surface, inside = word[a:b], continued and b < len(word)
            if inside and surface + CONTINUED in tokens:
                found.append((costs[a] + PIECE_COST, a, surface + CONTINUED))
            elif surface in tokens:
                found.append((costs[a] + PIECE_COST + BROKEN_COST * inside, a, surface))
        cost, start, token = min(found, key=lambda f: f[:2])
        costs.append(cost)
        cuts.append((start, token))
    pieces, b = [], len(word)
    while b:
        start, token = cuts[b]
        pieces.append((word[start:b], token))
        b = start
    return pieces[::-1]
