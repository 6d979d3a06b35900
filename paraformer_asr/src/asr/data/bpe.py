"""Pieces of words learned by byte-pair encoding, with sentencepiece."""

import io
from collections.abc import Sequence

import sentencepiece


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
        RuntimeError: bytes that sentencepiece did not write.
    """
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def list_pieces(model: bytes) -> list[str]:
    """Return the pieces of a trained model, without its `<unk>`."""
    pieces = load_bpe(model)
    return [pieces.id_to_piece(i) for i in range(1, pieces.get_piece_size())]
