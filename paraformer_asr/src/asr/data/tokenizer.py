"""Text to token numbers and back: characters, pieces learned by byte-pair encoding, or a given list of tokens.

The numbering is the same for all: 0 `<blank>`, 1 `<s>`, 2 `</s>`, then the ordinary tokens, at the end `<unk>`.
`▁` (U+2581) stands for a space.
"""

import dataclasses
import functools
import io
import json
import logging
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import sentencepiece

from asr.config import TokenizerConfig
from asr.data.token_file import read_token_file
from asr.data.word_pieces import CONTINUED, fewest_pieces, is_ideograph
from asr.errors import UserError

log = logging.getLogger("asr")

BLANK, START, END, UNKNOWN = "<blank>", "<s>", "</s>", "<unk>"
BLANK_ID, START_ID, END_ID = 0, 1, 2
FIRST_ID = 3
"""The first ordinary token."""

SPACE = "▁"
TOKENIZER_FILE, BPE_FILE = "tokenizer.json", "bpe.model"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The vocabulary of a model, and how text is cut into it.

    Attributes:
        tokens: all tokens; the place of one is its number.
        kind: how text is cut. "characters": each by itself. "bpe": by the trained model. "file": each word into
            the fewest tokens of the list.
        text_case: what is done to a text first.
        bpe_model: the trained model of sentencepiece; kind "bpe" only.
    """

    tokens: tuple[str, ...]
    kind: Literal["characters", "bpe", "file"]
    text_case: Literal["keep", "lower", "upper"] = "keep"
    bpe_model: bytes = dataclasses.field(default=b"", repr=False)

    def __post_init__(self):
        head, tail = self.tokens[:FIRST_ID], self.tokens[FIRST_ID:]
        if head != (BLANK, START, END) or tail[-1:] != (UNKNOWN,):
            raise UserError(
                f"expected the tokens {BLANK}, {START}, {END}, …, {UNKNOWN}; "
                f"found {', '.join(head)}, …, {', '.join(tail[-1:])}"
            )
        if len(self._ids) != len(self.tokens):
            raise UserError("expected tokens that differ from each other")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the special ones counted."""
        return len(self.tokens)

    @property
    def unknown_id(self) -> int:
        """Number of `<unk>`, the last one."""
        return len(self.tokens) - 1

    def normalise(self, text: str) -> str:
        """Return the text as it is encoded: in its case, NFC, single spaces, none at the ends."""
        match self.text_case:
            case "lower":
                text = text.lower()
            case "upper":
                text = text.upper()
        return " ".join(unicodedata.normalize("NFC", text).replace(SPACE, " ").split())

    def encode(self, text: str) -> list[int]:
        """Return the numbers of the text's tokens, without an end of sentence; unknown parts become `<unk>`."""
        text = self.normalise(text)
        match self.kind:
            case "characters":
                return [self._ids.get(c, self.unknown_id) for c in text.replace(" ", SPACE)]
            case "bpe":
                # sentencepiece counts <unk> as 0, the pieces from 1 on
                return [i + FIRST_ID - 1 if i else self.unknown_id for i in self._bpe.encode(text)]
            case "file":
                return [self._ids[token] if token else self.unknown_id for _, token in self._pieces(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text that the tokens spell; special ones, `<unk>` among them, are left out."""
        ids = [int(i) for i in ids if self.is_ordinary(int(i))]
        tokens = [self.tokens[i] for i in ids]
        if not self._continued:
            return " ".join("".join(tokens).replace(SPACE, " ").split())
        text = ""
        for token, starts in zip(tokens, self.word_starts(ids), strict=True):
            between_ideographs = text and is_ideograph(text[-1]) and is_ideograph(token[0])
            text += (" " if text and starts and not between_ideographs else "") + token.removesuffix(CONTINUED)
        return text

    def word_starts(self, ids: Sequence[int]) -> list[bool]:
        """Return for each token of a row, special ones left out before, whether a word begins with it.

        Words begin at the first token, at one that begins with `▁`, in a list with `@@` behind a token without it,
        and at and behind each ideograph.
        """
        flags, previous = [], ""
        for token in (self.tokens[int(i)] for i in ids):
            if self._continued:
                starts = not previous.endswith(CONTINUED)
            else:
                beside_ideograph = is_ideograph(token[0]) or is_ideograph(previous[-1:])
                starts = token[0] == SPACE or (beside_ideograph and previous != SPACE)
            flags.append(starts or not previous)
            previous = token
        return flags

    def is_ordinary(self, token_id: int) -> bool:
        """Return whether a number is that of an ordinary token, not of a special one."""
        return FIRST_ID <= token_id < self.unknown_id

    def unknown_characters(self, text: str) -> set[str]:
        """Return the characters of the normalised text that no token covers."""
        text = self.normalise(text)
        if self.kind == "file":
            return {surface for surface, token in self._pieces(text) if token is None}
        return {c for c in set(text) if c.replace(" ", SPACE) not in self._alphabet}

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, and `bpe.model` where there is one, to be read by `load_tokenizer`."""
        content = {"kind": self.kind, "text_case": self.text_case, "tokens": self.tokens}
        (folder / TOKENIZER_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", "utf-8")
        if self.kind == "bpe":
            (folder / BPE_FILE).write_bytes(self.bpe_model)

    def _pieces(self, text: str) -> list[tuple[str, str | None]]:
        """Return a normalised text as (characters, token of the list, or None)."""
        pieces = []
        for number, word in enumerate(text.split()):
            if self._space_begins_tokens:
                word = SPACE + word
            elif number and not self._continued:
                pieces.append((" ", SPACE))
            pieces += fewest_pieces(word, self._ordinary, self._longest, continued=self._continued)
        return pieces

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @functools.cached_property
    def _ordinary(self) -> frozenset[str]:
        return frozenset(self.tokens[FIRST_ID:-1])

    @functools.cached_property
    def _alphabet(self) -> frozenset[str]:
        return frozenset("".join(self._ordinary))

    @functools.cached_property
    def _longest(self) -> int:
        return max(map(len, self._ordinary), default=1)

    @functools.cached_property
    def _space_begins_tokens(self) -> bool:
        """Whether the spaces are parts of tokens, as in byte-pair encoding, not tokens of their own."""
        return any(token[0] == SPACE and len(token) > 1 for token in self._ordinary)

    @functools.cached_property
    def _continued(self) -> bool:
        """Whether it is a list without spaces, in which `@@` joins pieces to words."""
        return self.kind == "file" and not any(SPACE in token for token in self._ordinary)

    @functools.cached_property
    def _bpe(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.bpe_model)


def build_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer that the section `tokenizer` describes.

    Args:
        config: kind, case, number of pieces, or file.
        texts: of the training split; characters and pieces are taken from them, equal texts give equal tokenizers.

    Raises:
        UserError: a list of tokens that cannot be used, texts that are all empty, or fewer pieces than characters.
    """
    if config.kind == "file":
        return _from_file(Path(config.file), config.text_case)
    plain = Tokenizer(with_special_tokens(()), "characters", config.text_case)
    texts = [text for text in map(plain.normalise, texts) if text]
    if not texts:
        raise UserError(f"tokenizer.kind: {config.kind} takes the tokens from the training texts, but all are empty")
    alphabet = sorted(set().union(*texts) - {" "} | ({SPACE} if any(" " in text for text in texts) else set()))
    if config.kind == "characters":
        return Tokenizer(with_special_tokens(alphabet), "characters", config.text_case)
    return _train_bpe(config, texts, len({SPACE, *alphabet}))


def with_special_tokens(tokens: Iterable[str]) -> tuple[str, ...]:
    """Return all tokens of a vocabulary with these ordinary ones."""
    return (BLANK, START, END, *tokens, UNKNOWN)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer that `Tokenizer.save` wrote.

    Raises:
        UserError: a file is missing or is not what `save` writes, naming it.
    """
    path = folder / TOKENIZER_FILE
    try:
        content = json.loads(path.read_text("utf-8"))
        kind, text_case, tokens = content["kind"], content["text_case"], content["tokens"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a tokenizer with 'kind', 'text_case' and 'tokens' ({error!r})") from None
    if kind not in ("characters", "bpe", "file") or text_case not in ("keep", "lower", "upper"):
        raise UserError(f"{path}: unknown kind {kind!r} or text_case {text_case!r}")
    if not isinstance(tokens, list) or not all(isinstance(token, str) and token for token in tokens):
        raise UserError(f"{path}: 'tokens': expected a list of texts that are not empty")
    try:
        tokenizer = Tokenizer(tuple(tokens), kind, text_case)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return _with_bpe_model(tokenizer, folder / BPE_FILE) if kind == "bpe" else tokenizer


def _from_file(path: Path, text_case: str) -> Tokenizer:
    tokens = read_token_file(path)
    if not {BLANK, START, END, UNKNOWN} & set(tokens):
        tokens = with_special_tokens(tokens)
    try:
        return Tokenizer(tuple(tokens), "file", text_case)
    except UserError as error:
        raise UserError(f"{path}: {error}; a list without any of these four gets them") from None


def _train_bpe(config: TokenizerConfig, texts: list[str], num_characters: int) -> Tokenizer:
    """Return a tokenizer of pieces learned from normalised texts."""
    if config.vocab_size < num_characters:
        raise UserError(
            f"tokenizer.vocab_size: expected at least {num_characters}, the number of different characters in the "
            f"training texts (the space is one), found {config.vocab_size}"
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=config.vocab_size + 1,  # sentencepiece counts <unk>
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
    tokens = _bpe_tokens(model.getvalue())
    if (found := len(tokens) - FIRST_ID - 1) < config.vocab_size:
        log.info("tokenizer.vocab_size: the training texts give %d pieces, not %d", found, config.vocab_size)
    return Tokenizer(tokens, "bpe", config.text_case, model.getvalue())


def _bpe_tokens(model: bytes) -> tuple[str, ...]:
    """Return the tokens of a trained model in our numbering."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    return with_special_tokens(pieces.id_to_piece(i) for i in range(1, pieces.get_piece_size()))


def _with_bpe_model(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    try:
        model = path.read_bytes()
        tokens = _bpe_tokens(model)
    except OSError as error:
        raise UserError(f"{path}: cannot read the model of the pieces ({error.strerror})") from None
    except RuntimeError:
        raise UserError(f"{path}: expected a model that sentencepiece wrote, found other bytes") from None
    if tokens != tokenizer.tokens:
        raise UserError(f"{path}: its pieces are not those of {TOKENIZER_FILE} beside it; the two belong together")
    return dataclasses.replace(tokenizer, bpe_model=model)
