"""The tokenizer of a published model that comes with a model of sentencepiece.

The numbers of the tokens are those of that model. It may know tags, such as `<|en|>` or `<|HAPPY|>`: a recogniser
writes them between the words, and they are no part of the text.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from asr.data.text.pieces import NORMALIZER, SPACE, TABLE
from asr.data.text.tokenizer import FIRST_ID, MAX_TOKENIZER_BYTES, Case, Tokenizer
from asr.errors import UserError
from asr.files import Reader, read_bounded
from asr.protobuf import fields, message, whole_fields, write_field
from asr.untrusted import shown

TAG = re.compile(r"<\|[^<|>]+\|>")
NAME, SELF_TEST, DENORMALIZER = 1, 4, 5  # further fields of sentencepiece's `NormalizerSpec` and `ModelProto`


@dataclasses.dataclass(frozen=True)
class SentencePieceTokenizer(Tokenizer):
    """The vocabulary of a model of sentencepiece; `kind` is "sentencepiece", `bpe_model` the bytes of the model."""

    def __post_init__(self):
        if self._bpe.get_piece_size() <= FIRST_ID:
            raise RuntimeError("a model without pieces")

    @property
    def unknown_id(self) -> int:
        """Number of the token for what no piece covers."""
        return self._bpe.unk_id()

    def normalise(self, text: str) -> str:
        """Return the text in the form that is encoded, as the model was trained: in many of them NFKC."""
        text = super().normalise(text)
        text = unicodedata.normalize("NFKC", text) if b"nfkc" in self._rule else text
        return " ".join((text.casefold() if self._rule.endswith(b"_cf") else text).split())

    def encode(self, text: str) -> list[int]:
        """Return the numbers of the text's tokens."""
        return self._bpe.encode(self.normalise(text))

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text that tokens spell."""
        content = b"".join(self._byte_of.get(token) or token.encode() for token in tokens)
        return " ".join(content.decode(errors="replace").replace(SPACE, " ").split())

    def tagged(self, ids: Iterable[int]) -> str:
        """Return the text as the model wrote it, with its tags; "" if it has none in its vocabulary."""
        return self._bpe.decode([int(i) for i in ids]) if self._has_tags else ""

    def is_ordinary(self, token_id: int) -> bool:
        """Return whether a token is a piece of text."""
        return token_id in self._ordinary_ids

    def unknown_characters(self, text: str) -> set[str]:
        """Return the characters of the normalised text that no token covers."""
        return set() if self._byte_of else super().unknown_characters(text)

    @functools.cached_property
    def _rule(self) -> bytes:
        """The name of the rule by which texts were normalised in training, such as `nmt_nfkc`."""
        specs = (message(value) for number, value in fields(self.bpe_model) if number == NORMALIZER)
        return b"".join(message(value) for spec in specs for number, value in fields(spec) if number == NAME)

    @functools.cached_property
    def _has_tags(self) -> bool:
        return any(map(TAG.fullmatch, self.tokens))

    @functools.cached_property
    def _ordinary_ids(self) -> frozenset[int]:
        model = self._bpe
        special = {i for i, token in enumerate(self.tokens) if i < FIRST_ID or TAG.fullmatch(token)}
        kinds = model.is_control, model.is_unknown, model.is_unused
        special |= {i for i in range(self.vocab_size) if any(is_of_kind(i) for is_of_kind in kinds)}
        return frozenset(range(self.vocab_size)) - special

    @functools.cached_property
    def _ordinary(self) -> frozenset[str]:
        return frozenset(self.tokens[i] for i in self._ordinary_ids)

    @functools.cached_property
    def _byte_of(self) -> dict[str, bytes]:
        """The byte that each token such as `<0xE4>` stands for."""
        return {t: bytes.fromhex(t[3:5]) for i, t in enumerate(self.tokens) if self._bpe.is_byte(i)}

    @functools.cached_property
    def _bpe(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=_without_tables(self.bpe_model))


def read_sentencepiece(path: Path, text_case: Case = "keep", read: Reader = read_bounded) -> SentencePieceTokenizer:
    """Return the tokenizer of a model of sentencepiece; texts come in the case of its pieces if that is one.

    Raises:
        UserError: a file that cannot be read or is no such model.
    """
    try:
        model = read(path, MAX_TOKENIZER_BYTES)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=_without_tables(model))
        tokens = tuple(pieces.id_to_piece(i) for i in range(pieces.get_piece_size()))
        tokenizer = SentencePieceTokenizer(tokens, "sentencepiece", text_case, model)
    except OSError as error:
        raise UserError(f"{path}: cannot read the model of the pieces ({error.strerror})") from None
    except (RuntimeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a model of sentencepiece, found other bytes ({shown(error)})") from None
    return dataclasses.replace(tokenizer, text_case=tokenizer.only_case) if text_case == "keep" else tokenizer


def _without_tables(model: bytes) -> bytes:
    """Return a model without its tables of characters to replace, and without the self-test that needs them.

    sentencepiece trusts the tables: a forged one makes it read beyond its memory. They serve the normalisation of
    texts alone, which `normalise` does.
    """
    if not model:
        raise RuntimeError("an empty model")
    kept = []
    for field in whole_fields(model):
        if field.number in (NORMALIZER, DENORMALIZER):
            spec = b"".join(part.raw for part in whole_fields(message(field.value)) if part.number != TABLE)
            kept.append(write_field(field.number, spec))
        elif field.number != SELF_TEST:
            kept.append(field.raw)
    return b"".join(kept)
