"""The tokenizer that a config asks for: made from the training texts, or read from files."""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path

from asr.config import Config, TokenizerConfig
from asr.data.text import funasr_text
from asr.data.text.bpe import list_pieces, train_bpe
from asr.data.text.letter_case import Case
from asr.data.text.token_file import read_token_file
from asr.data.text.tokenizer import (
    BLANK,
    END,
    FIRST_ID,
    SPACE,
    START,
    UNKNOWN,
    Tokenizer,
    load_tokenizer,
    with_special_tokens,
)
from asr.errors import UserError
from asr.funasr_folder import find_text_files

log = logging.getLogger("asr")

MIN_MEAN_USES = 5
"""Fewer occurrences of a piece in the training texts, on average, teach it by heart. AN4's 200 pieces have 25."""


def choose_tokenizer(config: Config, texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer of a new run: that of the model in `init`, or one that `build_tokenizer` makes.

    A `text_case` beside `kind: init` comes before that of the model, "keep" does not.

    Args:
        config: `tokenizer` and `init` matter.
        texts: of the training split.

    Raises:
        UserError: as `build_tokenizer` and `asr.data.text.tokenizer.load_tokenizer`.
    """
    if config.tokenizer.kind == "init":
        tokenizer, text_case = load_tokenizer(Path(config.init)), config.tokenizer.text_case
        return tokenizer if text_case == "keep" else dataclasses.replace(tokenizer, text_case=text_case)
    return build_tokenizer(config.tokenizer, texts)


def load_funasr_tokenizer(
    folder: Path, text_case: Case = "keep", files: tuple[Path, Path | None] | None = None
) -> Tokenizer:
    """Return the tokenizer of a folder with FunASR's list of tokens and, if it has one, words and their pieces.

    Args:
        folder: with the two files, under their usual names (`tokens.json`, `seg_dict`) or those that it states.
        text_case: what is done to a text first.
        files: the two files, the second one or None, where they are known already.

    Raises:
        UserError: a file that is missing or damaged, or tokens that are not numbered as FunASR numbers them.
    """
    if files is None:
        *files, remarks = find_text_files(folder)
        for remark in remarks:
            log.warning("%s", remark)
    path, seg_dict = files
    words = funasr_text.read_seg_dict(seg_dict) if seg_dict else {}
    try:
        return Tokenizer(tuple(read_token_file(path)), "funasr", text_case, seg_dict=words)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def build_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer that the section `tokenizer` describes.

    Args:
        config: kind, case, number of pieces, or file.
        texts: of the training split; characters and pieces are taken from them, equal texts give equal tokenizers.

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


def _from_file(path: Path, text_case: str) -> Tokenizer:
    tokens = read_token_file(path)
    if not {BLANK, START, END, UNKNOWN} & set(tokens):
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
            "tokenizer.vocab_size: %d pieces are too many for %d training texts, which have each of them %.1f times on "
            "average: the model would learn phrases by heart; take %s",
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
    """Return how often a piece occurs in the texts on average; not above MIN_MEAN_USES it is exact."""
    num_pieces = tokenizer.vocab_size - FIRST_ID - 1
    num_words = sum(len(text.split()) for text in texts)  # no piece is longer than a word
    if num_words >= MIN_MEAN_USES * num_pieces:
        return num_words / num_pieces
    return sum(len(tokenizer.encode(text)) for text in texts) / num_pieces


def _suggest(config: TokenizerConfig, texts: list[str], num_characters: int) -> str:
    """Return the setting to take instead: half as many pieces, a quarter …, or characters."""
    vocab_size = config.vocab_size // 2
    while vocab_size > num_characters:
        if _mean_uses(_with_pieces(texts, vocab_size, config.text_case), texts) >= MIN_MEAN_USES:
            return f"tokenizer.vocab_size={vocab_size}"
        vocab_size //= 2
    return "tokenizer.kind=characters"
