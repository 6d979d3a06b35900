"""The tokenizer that a config asks for: made from the training texts, or read from files."""

import logging
from collections.abc import Iterable
from pathlib import Path

from asr.config import Config, TokenizerConfig
from asr.data.bpe import list_pieces, train_bpe
from asr.data.token_file import read_token_file
from asr.data.tokenizer import (
    BLANK,
    END,
    FIRST_ID,
    SPACE,
    START,
    UNKNOWN,
    Tokenizer,
    load_funasr_tokenizer,
    load_tokenizer,
    with_special_tokens,
)
from asr.errors import UserError

log = logging.getLogger("asr")


def choose_tokenizer(config: Config, texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer of a new run: that of the model in `init`, or one that `build_tokenizer` makes.

    Args:
        config: `tokenizer` and `init` matter.
        texts: of the training split.

    Raises:
        UserError: as `build_tokenizer` and `asr.data.tokenizer.load_tokenizer`.
    """
    if config.tokenizer.kind == "init":
        return load_tokenizer(Path(config.init))
    return build_tokenizer(config.tokenizer, texts)


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
    model = train_bpe(texts, config.vocab_size)
    tokens = with_special_tokens(list_pieces(model))
    if (found := len(tokens) - FIRST_ID - 1) < config.vocab_size:
        log.info("tokenizer.vocab_size: the training texts give %d pieces, not %d", found, config.vocab_size)
    return Tokenizer(tokens, "bpe", config.text_case, model)
