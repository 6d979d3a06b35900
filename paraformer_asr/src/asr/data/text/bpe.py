"""Pieces of words learned by byte-pair encoding, with sentencepiece."""

import io
from collections.abc import Sequence

import sentencepiece

NORMALIZER, TABLE = 3, 2
"""Fields of sentencepiece's `ModelProto` and of its `NormalizerSpec`."""


def train_bpe(texts: Sequence[str], vocab_size: int) -> bytes:
    """Return a trained model; equal texts give equal models. There may be fewer pieces than asked for.

    Args:
        texts: normalised, not empty.
        vocab_size: pieces to learn, at least as many as there are different characters.
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
        RuntimeError: bytes that `train_bpe` did not write. A model of anybody else's may hold a table of characters to
            be replaced, which sentencepiece follows as it stands, out of its memory if need be.
    """
    if not model:
        raise RuntimeError("an empty model")
    if any(_fields(normalizer, TABLE) for normalizer in _fields(model, NORMALIZER)):
        raise RuntimeError("a model with a table of characters")
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def _fields(message: bytes, wanted: int) -> list[bytes]:
    """Return the values of a field of a protocol buffer that are not empty, numbers left out.

    Raises:
        RuntimeError: bytes that are none.
    """
    found, place = [], 0
    while place < len(message):
        tag, place = _varint(message, place)
        match tag & 7:
            case 0:
                _, place = _varint(message, place)
            case 1 | 5:
                place += 8 if tag & 7 == 1 else 4
            case 2:
                length, place = _varint(message, place)
                if tag >> 3 == wanted and length:
                    found.append(message[place : place + length])
                place += length
            case _:
                raise RuntimeError("no protocol buffer")
    if place != len(message):
        raise RuntimeError("a protocol buffer that is cut off")
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        value |= (message[place] & 0x7F) << shift
        place += 1
        if message[place - 1] < 0x80:
            return value, place
    raise RuntimeError("no protocol buffer")


def list_pieces(model: bytes) -> list[str]:
    """Return the pieces of a trained model, without its `<unk>`."""
    pieces = load_bpe(model)
    return [pieces.id_to_piece(i) for i in range(1, pieces.get_piece_size())]
