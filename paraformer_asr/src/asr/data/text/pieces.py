"""Pieces of words: learned by byte-pair encoding with sentencepiece, or the fewest tokens of a given list."""

import io
import re
from collections.abc import Container, Sequence
from typing import NamedTuple

import sentencepiece

from asr.protobuf import fields, message

SPACE = "▁"  # sign for a space in a token
CONTINUED = "@@"  # end of a token that is joined to the next one
IDEOGRAPHS = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters and Japanese syllables, as a range of a regular expression; each is a word."""

UNSPACED = IDEOGRAPHS + "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Scripts without spaces between words: those, Thai, Lao, Burmese and Khmer."""

UNKNOWN_COST, BROKEN_COST, PIECE_COST = 1_000_000, 1_000, 1
NORMALIZER, TABLE = 3, 2  # fields of sentencepiece's `ModelProto` and of its `NormalizerSpec`

_ideograph, _unspaced = re.compile(f"[{IDEOGRAPHS}]"), re.compile(f"[{UNSPACED}]")


class Spelled(NamedTuple):
    """A word, or a character of a script without spaces, that a row of tokens spells."""

    text: str  # without spaces
    start: int  # place of its first token in the row
    stop: int  # place after its last one
    space_before: bool  # whether a space separates it from the word before


def is_ideograph(character: str) -> bool:
    """Return whether a character is a word by itself, written without spaces around it."""
    return bool(_ideograph.match(character))


def is_unspaced(character: str) -> bool:
    """Return whether a character is of a script without spaces between words."""
    return bool(_unspaced.match(character))


def word_starts(tokens: Sequence[str], *, continued: bool) -> list[bool]:
    """Return for each of a row of ordinary tokens whether a word begins with it; see `Tokenizer.word_starts`."""
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


def word_edges(token: str, *, continued: bool) -> tuple[bool, bool]:
    """Return whether a word begins at an ordinary token whatever is before it, and ends at it whatever follows.

    Characters of scripts without spaces count as words; `continued` as in `word_starts`.
    """
    if continued:
        return False, not token.endswith(CONTINUED)
    return token[0] == SPACE or is_unspaced(token[0]), token[-1] == SPACE or is_unspaced(token[-1])


def fewest_pieces(
    word: str, tokens: Container[str], longest: int, *, continued: bool = False
) -> list[tuple[str, str | None]]:
    """Return the word as a row of (characters, token), the token None for a character that none of them covers.

    The cut has the fewest unknown characters, then the fewest pieces, then the longest last pieces. With `continued`,
    all pieces but the last end in `@@` in the list of tokens; if such a token is missing, the one without `@@` is
    taken, and decoding splits the word there. `longest` is the length of the longest token.
    """
    # Dynamic programming over the first b characters: lowest cost, and start and token of the last piece.
    costs, cuts = [0], [(0, None)]
    for b in range(1, len(word) + 1):
        options = [(costs[b - 1] + UNKNOWN_COST, b - 1, None)]
        for a in range(max(0, b - longest), b):
            surface, inside = word[a:b], continued and b < len(word)
            if inside and surface + CONTINUED in tokens:
                options.append((costs[a] + PIECE_COST, a, surface + CONTINUED))
            elif surface in tokens:
                options.append((costs[a] + PIECE_COST + BROKEN_COST * inside, a, surface))
        cost, start, token = min(options, key=lambda option: option[:2])
        costs.append(cost)
        cuts.append((start, token))
    pieces, b = [], len(word)
    while b:
        start, token = cuts[b]
        pieces.append((word[start:b], token))
        b = start
    return pieces[::-1]


def train_bpe(texts: Sequence[str], vocab_size: int) -> bytes:
    """Return a trained model, which may have fewer pieces than `vocab_size`; equal texts give equal models.

    The texts are normalised and not empty; `vocab_size` is at least the number of different characters.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size + 1,  # sentencepiece counts <unk>
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        byte_fallback=False,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        max_sentence_length=1 << 30,  # longer ones would be left out
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def load_bpe(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Return the trained model, ready to cut texts.

    Raises:
        RuntimeError: bytes that `train_bpe` did not write. A model with a table of characters to replace is refused:
            sentencepiece trusts the table, and a forged one makes it read beyond its memory.
    """
    if not model:
        raise RuntimeError("an empty model")
    normalizers = (message(value) for number, value in fields(model) if number == NORMALIZER)
    if any(number == TABLE and value for spec in normalizers for number, value in fields(spec)):
        raise RuntimeError("a model with a table of characters")
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def list_pieces(model: bytes) -> list[str]:
    """Return the pieces of a trained model, without its `<unk>`."""
    pieces = load_bpe(model)
    return [pieces.id_to_piece(i) for i in range(1, pieces.get_piece_size())]
