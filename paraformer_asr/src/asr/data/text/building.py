"""Builds the tokenizer of a config from the training texts, or reads it from files."""

import dataclasses
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from asr.config import Config, TokenizerConfig
from asr.data.speech_labels import check_label_tokens
from asr.data.text import funasr_text
from asr.data.text.pieces import SPACE, list_pieces, train_bpe
from asr.data.text.sentencepiece_tokenizer import read_sentencepiece
from asr.data.text.stored_tokenizer import load_tokenizer
from asr.data.text.tokenizer import FIRST_ID, SPECIAL, Case, Kind, Tokenizer, with_special_tokens
from asr.errors import UserError
from asr.files import decoded, read_bounded
from asr.funasr_folder import TextFiles, find_text_files
from asr.untrusted import HALF_CHARACTER, shown

log = logging.getLogger("asr")

MIN_MEAN_USES = 5
"""Least mean number of times that a piece should occur in the training texts. AN4's 200 pieces occur 25 times."""

MAX_TOKEN_FILE_BYTES = 1 << 26


def choose_tokenizer(config: Config, texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer of a new run: that of the model in `init`, or one that `build_tokenizer` returns.

    With `kind: init` a `text_case` other than "keep" overrides that of the model. `texts` are the training texts.
    """
    if config.tokenizer.kind == "init":
        tokenizer, text_case = load_tokenizer(Path(config.init)), config.tokenizer.text_case
        tokenizer = tokenizer if text_case == "keep" else dataclasses.replace(tokenizer, text_case=text_case)
    else:
        tokenizer = build_tokenizer(config.tokenizer, texts)
    if config.model.name == "vad":
        check_label_tokens(tokenizer)
    return tokenizer


def load_funasr_tokenizer(
    folder: Path, text_case: Case = "keep", files: TextFiles | None = None, num_outputs: int | None = None
) -> Tokenizer:
    """Return the tokenizer of a FunASR folder: a list of tokens with words and their pieces, or a sentencepiece model.

    Args:
        folder: where its files are, with the names that `asr.funasr_folder` knows.
        text_case: as in `Tokenizer`.
        files: if they are known already.
        num_outputs: width of the network's output, if it is known.
    """
    if files is None:
        files, remarks = find_text_files(folder)
        for remark in remarks:
            log.warning("%s", remark)
    if files.pieces:
        return _load_pieces(files, text_case, num_outputs)
    words = funasr_text.read_seg_dict(files.seg_dict) if files.seg_dict else {}
    return _listed(files.tokens, "funasr", text_case, words)


def _load_pieces(files: TextFiles, text_case: Case, num_outputs: int | None) -> Tokenizer:
    """Return the tokenizer of a sentencepiece model, or of the list beside it if that is what numbers the outputs.

    The English Paraformer comes with both: the list has special tokens that the model lacks, so its numbers differ.
    FunASR looks the outputs up in the model all the same and writes other words.
    """
    tokenizer = read_sentencepiece(files.pieces, text_case)
    if files.tokens and tokenizer.vocab_size != num_outputs:
        listed = _listed(files.tokens, "file", text_case)
        if listed.vocab_size != tokenizer.vocab_size and num_outputs in (None, listed.vocab_size):
            return dataclasses.replace(listed, text_case=listed.only_case) if text_case == "keep" else listed
    return tokenizer


def _listed(path: Path, kind: Kind, text_case: Case, seg_dict: funasr_text.SegDict | None = None) -> Tokenizer:
    try:
        return Tokenizer(tuple(read_token_file(path)), kind, text_case, seg_dict=seg_dict or {})
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def build_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer that the section `tokenizer` describes.

    The `texts` of the training split are the source of characters and pieces; equal texts give equal tokenizers.

    Raises:
        UserError: a list of tokens that cannot be used, texts that are all empty, or fewer pieces than characters.
    """
    match config.kind:
        case "file":
            return _from_file(Path(config.file), config.text_case)
        case "funasr":
            return load_funasr_tokenizer(Path(config.file), config.text_case)
    plain = Tokenizer(with_special_tokens(()), "characters", config.text_case)
    texts = [text for text in map(plain.normalise, texts) if text]
    if not texts:
        raise UserError(f"tokenizer.kind: {config.kind} takes the tokens from the training texts, but all are empty")
    alphabet = sorted(set().union(*texts) - {" "} | ({SPACE} if any(" " in text for text in texts) else set()))
    if config.kind == "characters":
        return Tokenizer(with_special_tokens(alphabet), "characters", config.text_case)
    return _learn_pieces(config, texts, len({SPACE, *alphabet}))


def read_token_file(path: Path) -> list[str]:
    """Return the tokens of a file, in order, with its special ones if it has them.

    A file that begins with `[` and is JSON is a list of texts, as FunASR's tokens.json; any other has one token on
    each line, without surrounding blanks and empty lines at the end, or a token and its number, as sherpa-onnx writes.

    Raises:
        UserError: an unreadable file, an empty one, or an entry that is not a token or comes twice, with its line.
    """
    try:
        text = decoded(path, read_bounded(path, MAX_TOKEN_FILE_BYTES), "a list of tokens")
    except OSError as error:
        raise UserError(f"{path}: cannot read the list of tokens ({error.strerror})") from None
    listed = _json_list(text)
    tokens = listed if listed is not None else _without_numbers([line.strip() for line in text.rstrip().splitlines()])
    if not tokens:
        raise UserError(f"{path}: expected a list of tokens, found an empty one")
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens, 1):
        where = f"{path}: entry {number}" if listed is not None else f"{path}:{number}"
        if token == "":
            raise UserError(f"{where}: an empty token")
        if not isinstance(token, str):
            raise UserError(f"{where}: expected a token, found {shown(token)}")
        if HALF_CHARACTER.search(token):
            raise UserError(f"{where}: expected a token, found half a character in {shown(token)}")
        if token in seen:
            raise UserError(f"{where}: the token {shown(token)} is already entry {seen[token]}")
        seen[token] = number
    return tokens


def _without_numbers(lines: list[str]) -> list[str]:
    """Return the lines without the numbers 0, 1, … at their ends, if all have them."""
    parts = [line.rpartition(" ") for line in lines]
    numbered = all(token and number == str(place) for place, (token, _, number) in enumerate(parts))
    return [token.strip() for token, _, _ in parts] if numbered else lines


def _json_list(text: str) -> list | None:
    """Return the JSON list that the text is, or None; `[` may also be the first of the tokens, one a line."""
    if not text.lstrip().startswith("["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_file(path: Path, text_case: Case) -> Tokenizer:
    tokens = read_token_file(path)
    if not set(SPECIAL) & set(tokens):
        tokens = with_special_tokens(tokens)
    try:
        return Tokenizer(tuple(tokens), "file", text_case)
    except UserError as error:
        raise UserError(f"{path}: {error}; a list without any of these four gets them") from None


def _learn_pieces(config: TokenizerConfig, texts: list[str], num_characters: int) -> Tokenizer:
    """Return a tokenizer of pieces learned from normalised texts."""
    if config.vocab_size < num_characters:
        raise UserError(
            f"tokenizer.vocab_size: expected at least {num_characters}, the number of different characters in the "
            f"training texts (the space is one), found {config.vocab_size}"
        )
    tokenizer = _with_pieces(texts, config.vocab_size, config.text_case)
    if (num_pieces := tokenizer.vocab_size - FIRST_ID - 1) < config.vocab_size:
        log.info("tokenizer.vocab_size: the training texts give %d pieces, not %d", num_pieces, config.vocab_size)
    if (uses := _mean_uses(tokenizer, texts)) < MIN_MEAN_USES:
        log.warning(
            "tokenizer.vocab_size: %d pieces are too many for %d training texts: each occurs %.1f times on average, so "
            "the model would memorise phrases; use %s",
            num_pieces,
            len(texts),
            uses,
            _suggest(config, texts, num_characters),
        )
    return tokenizer


def _with_pieces(texts: list[str], vocab_size: int, text_case: Case) -> Tokenizer:
    model = train_bpe(texts, vocab_size)
    return Tokenizer(with_special_tokens(list_pieces(model)), "bpe", text_case, model)


def _mean_uses(tokenizer: Tokenizer, texts: list[str]) -> float:
    """Return the mean number of times that a piece occurs in the texts, exact if it is below MIN_MEAN_USES."""
    num_pieces = tokenizer.vocab_size - FIRST_ID - 1
    num_words = sum(len(text.split()) for text in texts)  # no piece is longer than a word
    if num_words >= MIN_MEAN_USES * num_pieces:
        return num_words / num_pieces
    return sum(len(tokenizer.encode(text)) for text in texts) / num_pieces


def _suggest(config: TokenizerConfig, texts: list[str], num_characters: int) -> str:
    """Return the setting to use instead: half as many pieces, a quarter …, or characters."""
    vocab_size = config.vocab_size // 2
    while vocab_size > num_characters:
        if _mean_uses(_with_pieces(texts, vocab_size, config.text_case), texts) >= MIN_MEAN_USES:
            return f"tokenizer.vocab_size={vocab_size}"
        vocab_size //= 2
    return "tokenizer.kind=characters"
