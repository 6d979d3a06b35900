"""Reads the tokenizer of a run or a model folder: `tokenizer.json`, and beside it the model or list of its kind."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from asr.data.text import funasr_text
from asr.data.text.pieces import list_pieces
from asr.data.text.sentencepiece_tokenizer import read_sentencepiece
from asr.data.text.tokenizer import (
    BPE_FILE,
    CASES,
    MAX_TOKENIZER_BYTES,
    SEG_DICT_FILE,
    TOKENIZER_FILE,
    Case,
    Kind,
    Tokenizer,
    with_special_tokens,
)
from asr.errors import UserError
from asr.files import Reader, read_bounded
from asr.untrusted import HALF_CHARACTER, shown


def load_tokenizer(folder: Path, read: Reader = read_bounded) -> Tokenizer:
    """Return the tokenizer that `Tokenizer.save` wrote."""
    path = folder / TOKENIZER_FILE
    try:
        content = json.loads(read(path, MAX_TOKENIZER_BYTES))
        kind, text_case, tokens = content["kind"], content["text_case"], content["tokens"]
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: expected a tokenizer with 'kind', 'text_case' and 'tokens' ({shown(error)})"
        ) from None
    if kind not in get_args(Kind) or text_case not in CASES:
        raise UserError(f"{path}: unknown kind {shown(kind)} or text_case {shown(text_case)}")
    if not isinstance(tokens, list) or not all(isinstance(token, str) and token for token in tokens):
        raise UserError(f"{path}: 'tokens': expected a list of texts that are not empty")
    if halves := [token for token in tokens if HALF_CHARACTER.search(token)]:
        raise UserError(f"{path}: 'tokens': half a character, which no text can have, in {shown(halves[0])}")
    if kind == "sentencepiece":
        return _with_published_model(tuple(tokens), folder, text_case, read)
    try:
        tokenizer = Tokenizer(tuple(tokens), kind, text_case)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    match kind:
        case "bpe":
            return _with_bpe_model(tokenizer, folder / BPE_FILE, read)
        case "funasr":
            return dataclasses.replace(tokenizer, seg_dict=funasr_text.read_seg_dict(folder / SEG_DICT_FILE, read))
    return tokenizer


def _with_bpe_model(tokenizer: Tokenizer, path: Path, read: Reader) -> Tokenizer:
    try:
        model = read(path, MAX_TOKENIZER_BYTES)
        tokens = with_special_tokens(list_pieces(model))
    except OSError as error:
        raise UserError(f"{path}: cannot read the model of the pieces ({error.strerror})") from None
    except (RuntimeError, UnicodeDecodeError):
        raise UserError(f"{path}: expected a model that sentencepiece wrote, found other bytes") from None
    _check_pieces(tokens, tokenizer.tokens, path)
    return dataclasses.replace(tokenizer, bpe_model=model)


def _with_published_model(tokens: tuple[str, ...], folder: Path, text_case: Case, read: Reader) -> Tokenizer:
    tokenizer = read_sentencepiece(folder / BPE_FILE, text_case, read)
    _check_pieces(tokenizer.tokens, tokens, folder / BPE_FILE)
    return tokenizer


def _check_pieces(pieces: Sequence[str], tokens: Sequence[str], path: Path) -> None:
    if pieces != tokens:
        raise UserError(f"{path}: its pieces are not those of {TOKENIZER_FILE} beside it; the two belong together")
