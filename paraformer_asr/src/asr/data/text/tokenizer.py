"""Text to token numbers and back: characters, pieces learned by byte-pair encoding, a given list, or FunASR's rules.

The numbering is the same for all: 0 `<blank>`, 1 `<s>`, 2 `</s>`, then the ordinary tokens, last `<unk>`. `▁` (U+2581)
stands for a space.
"""

import dataclasses
import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import sentencepiece

from asr.data.text import funasr_text
from asr.data.text.pieces import (
    CONTINUED,
    SPACE,
    Spelled,
    fewest_pieces,
    is_ideograph,
    load_bpe,
    word_edges,
    word_starts,
)
from asr.errors import UserError
from asr.files import replace_text, replacing
from asr.untrusted import escaped

BLANK, START, END, UNKNOWN = SPECIAL = "<blank>", "<s>", "</s>", "<unk>"
BLANK_ID, START_ID, END_ID = 0, 1, 2
FIRST_ID = 3  # the first ordinary token
TOKENIZER_FILE, BPE_FILE, SEG_DICT_FILE = "tokenizer.json", "bpe.model", "seg_dict"
MAX_TOKENIZER_BYTES = 1 << 26

_special = re.compile("<[^<>]+>")

Kind = Literal["characters", "bpe", "file", "funasr", "sentencepiece"]
Case = Literal["keep", "lower", "upper"]  # change to the case of a text
CASES = get_args(Case)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The vocabulary of a model, and the rule that cuts text into it.

    Attributes:
        tokens: all tokens, in the order of their numbers.
        kind: how text is cut. "characters": each by itself. "bpe": by the trained model. "file": each word into
            the fewest tokens of the list. "funasr": see `asr.data.text.funasr_text`. "sentencepiece": see
            `asr.data.text.sentencepiece_tokenizer`.
        text_case: case that a text is brought to first. For kind "funasr" the `only_case` of the tokens overrides it.
        bpe_model: the trained model of sentencepiece; kinds "bpe" and "sentencepiece" only.
        seg_dict: pieces of the known words; kind "funasr" only.
    """

    tokens: tuple[str, ...]
    kind: Kind
    text_case: Case = "keep"
    bpe_model: bytes = dataclasses.field(default=b"", repr=False)
    seg_dict: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self):
        head, tail = self.tokens[:FIRST_ID], self.tokens[FIRST_ID:]
        if head != (BLANK, START, END) or tail[-1:] != (UNKNOWN,):
            raise UserError(
                f"expected the tokens {BLANK}, {START}, {END}, …, {UNKNOWN}; "
                f"found {', '.join(map(escaped, head))}, …, {', '.join(map(escaped, tail[-1:]))}"
            )
        if len(self._ids) != len(self.tokens):
            raise UserError("expected tokens that differ from each other")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.tokens)

    @property
    def unknown_id(self) -> int:
        """Number of `<unk>`, the last one."""
        return len(self.tokens) - 1

    @functools.cached_property
    def only_case(self) -> Case:
        """The case of all letters of the ordinary tokens but those like `<OOV>`; "keep" if they have both, or none."""
        letters = "".join(token for token in self._ordinary if not _special.fullmatch(token))
        has_lower, has_upper = any(map(str.islower, letters)), any(map(str.isupper, letters))
        return "keep" if has_lower == has_upper else "lower" if has_lower else "upper"

    def normalise(self, text: str) -> str:
        """Return the text in the form that is encoded: in its case, NFC, single spaces, none at the ends."""
        is_funasr = self.kind == "funasr"
        case = self.only_case if is_funasr and self.only_case != "keep" else self.text_case
        text = unicodedata.normalize("NFC", in_case(text, case))
        return " ".join((text if is_funasr else text.replace(SPACE, " ")).split())

    def encode(self, text: str) -> list[int]:
        """Return the numbers of the text's tokens, without an end of sentence; unknown parts become `<unk>`."""
        text = self.normalise(text)
        match self.kind:
            case "characters":
                return [self._ids.get(c, self.unknown_id) for c in text.replace(" ", SPACE)]
            case "bpe":
                # sentencepiece counts <unk> as 0, the pieces from 1 on
                return [i + FIRST_ID - 1 if i else self.unknown_id for i in self._bpe.encode(text)]
            case _:
                return [self._ids[token] if token else self.unknown_id for _, token in self._pieces(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text that the tokens spell; special ones, `<unk>` among them, are left out."""
        return self.join([self.tokens[int(i)] for i in ids if self.is_ordinary(int(i))])

    def tagged(self, ids: Iterable[int]) -> str:
        """Return the text with the tags that the model writes; "" as this vocabulary has none."""
        return ""

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text that tokens spell; they need not be in the vocabulary."""
        if self.kind == "funasr":
            return funasr_text.join(tokens)
        if not self._continued:
            return " ".join("".join(tokens).replace(SPACE, " ").split())
        text = ""
        for token, starts in zip(tokens, word_starts(tokens, continued=True), strict=True):
            between_ideographs = text and is_ideograph(text[-1]) and is_ideograph(token[0])
            text += (" " if text and starts and not between_ideographs else "") + token.removesuffix(CONTINUED)
        return text

    def spell(self, ids: Sequence[int]) -> list[Spelled]:
        """Return the words of a row of ordinary tokens; joined with their spaces they are `decode(ids)`."""
        if self.kind == "funasr":
            return funasr_text.spell([self.tokens[i] for i in ids])
        starts = [number for number, starts in enumerate(self.word_starts(ids)) if starts]
        words: list[Spelled] = []
        last_start = 0
        for start, stop in itertools.pairwise([*starts, len(ids)]):
            text = self.decode(ids[start:stop])
            if not text:
                continue  # a space alone
            space = not words or self.decode(ids[last_start:stop]) != words[-1].text + text
            first = next(i for i in range(start, stop) if self.surface(ids[i]))
            words.append(Spelled(text, first, stop, space))
            last_start = start
        return words

    def surface(self, token_id: int) -> str:
        """Return the text of an ordinary token within a word: without spaces and the mark of a piece."""
        token = self.tokens[token_id]
        if self.kind == "funasr":
            return funasr_text.surface(token)
        return token.replace(SPACE, " ").strip().removesuffix(CONTINUED if self._continued else "")

    def word_starts(self, ids: Sequence[int]) -> list[bool]:
        """Return for each token of a row of ordinary ones whether a word begins with it.

        Words begin at the first token, at a token that begins with `▁`, after a token without `@@` in a list that has
        such tokens, and at and after each ideograph.
        """
        return word_starts([self.tokens[int(i)] for i in ids], continued=self._continued)

    def word_edges(self, token_id: int) -> tuple[bool, bool]:
        """Return whether a word always begins at a token, and whether one always ends there; at special ones both."""
        if not self.is_ordinary(token_id):
            return True, True
        return word_edges(self.tokens[token_id], continued=self._continued)

    def is_ordinary(self, token_id: int) -> bool:
        """Return whether a token is an ordinary one, not a special one."""
        return FIRST_ID <= token_id < self.unknown_id

    def unknown_characters(self, text: str) -> set[str]:
        """Return the characters of the normalised text that no token covers."""
        text = self.normalise(text)
        if self.kind in ("file", "funasr"):
            return {surface for surface, token in self._pieces(text) if token is None}
        return {c for c in set(text) if c.replace(" ", SPACE) not in self._alphabet}

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, and `bpe.model` or `seg_dict` if there is one; `load_tokenizer` reads them."""
        content = {"kind": self.kind, "text_case": self.text_case, "tokens": self.tokens}
        replace_text(folder / TOKENIZER_FILE, json.dumps(content, ensure_ascii=False, indent=0) + "\n")
        if self.bpe_model:
            with replacing(folder / BPE_FILE) as aside:
                aside.write_bytes(self.bpe_model)
        if self.kind == "funasr":
            funasr_text.write_seg_dict(folder / SEG_DICT_FILE, self.seg_dict)

    def rewrite(self, text: str) -> list[str]:
        """Return the tokens of a normalised text, unknown parts as they are; kinds "file" and "funasr" only."""
        if self.kind == "funasr":
            return funasr_text.cut_written(text, self.seg_dict, self._ordinary)
        return [token or surface for surface, token in self._pieces(text)]

    def _pieces(self, text: str) -> list[tuple[str, str | None]]:
        """Return a normalised text as (characters, token of the list or None)."""
        if self.kind == "funasr":
            return funasr_text.cut(text, self.seg_dict, self._ordinary)
        pieces = []
        for number, word in enumerate(text.split()):
            if self._space_begins_tokens:
                word = SPACE + word
            elif number and not self._continued:
                pieces.append((" ", SPACE if SPACE in self._ordinary else None))
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
        """Whether spaces are parts of tokens, as in byte-pair encoding, not tokens of their own."""
        return any(token[0] == SPACE and len(token) > 1 for token in self._ordinary)

    @functools.cached_property
    def _continued(self) -> bool:
        """Whether this is a list without spaces, in which `@@` joins pieces to words."""
        return self.kind == "funasr" or (self.kind == "file" and not any(SPACE in token for token in self._ordinary))

    @functools.cached_property
    def _bpe(self) -> sentencepiece.SentencePieceProcessor:
        return load_bpe(self.bpe_model)


def in_case(text: str, case: Case) -> str:
    """Return the text in a case."""
    return text.lower() if case == "lower" else text.upper() if case == "upper" else text


def with_special_tokens(tokens: Iterable[str]) -> tuple[str, ...]:
    """Return all tokens of a vocabulary, given the ordinary ones."""
    return (BLANK, START, END, *tokens, UNKNOWN)
