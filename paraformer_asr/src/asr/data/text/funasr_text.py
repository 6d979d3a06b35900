"""Cuts text into tokens and joins it again as FunASR does, for the models that were published with it.

A `seg_dict` file lists the pieces of each known word, `hello he@@ llo`; a piece that ends in `@@` is joined to the
next. Chinese is written without spaces, also beside a word in Latin letters: `今天 hello world` becomes
`今天hello world`. Digits count as Chinese. Single letters in a row are an abbreviation: `c n n` becomes `CNN`. A model
without a `seg_dict` has characters as tokens. All other scripts are written like Latin, with a space after each word,
here after each character: `п р и в е т`.
"""

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from asr.data.text.pieces import CONTINUED, Spelled
from asr.errors import UserError
from asr.files import Reader, decoded, read_bounded, replace_text
from asr.untrusted import shown

SegDict = Mapping[str, tuple[str, ...]]  # word, in lower case → its tokens
MAX_SEG_DICT_BYTES = 1 << 28

_chinese = re.compile(r"[\u4e00-\u9fff0-9@]+")
_can_be_cut = re.compile(r"[\u4e00-\u9fa5A-Za-z0-9]")
_runs = re.compile(r"[\u4e00-\u9fff]|[^\u4e00-\u9fff]+")

LEFT_OUT = "<OOV>"  # a token of some vocabularies that FunASR never writes


def read_seg_dict(path: Path, read: Reader = read_bounded) -> dict[str, tuple[str, ...]]:
    """Return the words of a file that has a word and its pieces, separated by blanks, on each line."""
    try:
        lines = decoded(path, read(path, MAX_SEG_DICT_BYTES), "words and their pieces").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read the words and their pieces ({error.strerror})") from None
    words = {}
    for number, line in enumerate(lines, 1):
        word, *pieces = line.split() or [""]
        if word and not pieces:
            raise UserError(f"{path}:{number}: expected a word and its pieces, found {shown(line)}")
        if word:
            words[word] = tuple(pieces)
    return words


def write_seg_dict(path: Path, seg_dict: SegDict) -> None:
    """Write words and their pieces, to be read by `read_seg_dict`."""
    replace_text(path, "".join(f"{word} {' '.join(pieces)}\n" for word, pieces in seg_dict.items()))


def cut(text: str, seg_dict: SegDict, tokens: Container[str]) -> list[tuple[str, str | None]]:
    """Return the text as a row of (characters, token), the token None for unknown characters.

    Without a `seg_dict` each character but the space is looked up among the tokens.

    With one, its words become their pieces. Any other word falls into characters if it begins with a letter, a digit
    or a Chinese character, and is otherwise unknown as a whole. Both are looked up in lower case first, as in FunASR;
    then, unlike there, in the case of the text and among the tokens.
    """
    if not seg_dict:
        return [(character, character if character in tokens else None) for character in text if character != " "]
    row: list[tuple[str, str | None]] = []
    for word in text.split():
        for part in _parts(word, seg_dict):
            row += [(part, piece if piece in tokens else None) for piece in _pieces(part, seg_dict, tokens)]
    return row


def cut_written(text: str, seg_dict: SegDict, tokens: Container[str]) -> list[str]:
    """Return the tokens of a text that a model may have written; unknown parts stay as they are.

    Unlike `cut` it treats runs of letters beside Chinese characters as words: FunASR writes `今天hello`, and would cut
    that into single letters.
    """
    if not seg_dict:
        return [character for character in text if character != " "]
    row: list[str] = []
    for word in text.split():
        runs = [word] if _known(word, seg_dict) else _runs.findall(word)
        for part in (part for run in runs for part in _parts(run, seg_dict)):
            # An unknown word is not joined to the next, even if it ends in `@@`.
            row += [piece or part.replace(CONTINUED, "@") for piece in _pieces(part, seg_dict, tokens)]
    return row


def _parts(word: str, seg_dict: SegDict) -> list[str]:
    return [word] if _known(word, seg_dict) or not _can_be_cut.match(word) else list(word)


def _known(word: str, seg_dict: SegDict) -> bool:
    return word.lower() in seg_dict or word in seg_dict


def _pieces(part: str, seg_dict: SegDict, tokens: Container[str]) -> tuple[str | None, ...]:
    """Return the tokens of a word or a character; None for unknown."""
    forms = (part.lower(), part)
    known = (seg_dict[form] for form in forms if form in seg_dict)
    return next(known, None) or (next((form for form in forms if form in tokens), None),)


def is_piece(token: str) -> bool:
    """Return whether a token is joined to the next one. FunASR takes `1@@`, which has no letter, for Chinese."""
    return CONTINUED in token and not _chinese.fullmatch(token)


def surface(token: str) -> str:
    """Return the text of a token within a word."""
    return token.replace(CONTINUED, "") if is_piece(token) else token


def spell(tokens: Sequence[str]) -> list[Spelled]:
    """Return the words of a row of ordinary tokens, as FunASR joins them.

    A piece with `@@` that no piece of its word follows is kept for the next word in letters, and is lost at the end; so
    is a token such as `%` between a word in letters and a Chinese character. FunASR does both. The place of a word is
    that of its last parts.
    """
    items: list[Spelled | None] = []  # None: a space
    kept, run_start, after_letters = "", 0, False
    for place, token in enumerate(tokens):
        if not (place and is_piece(tokens[place - 1])):
            run_start = place
        if token == LEFT_OUT:
            continue
        if _chinese.fullmatch(token):
            if after_letters:
                items.pop()
            items.append(Spelled(token, place, place + 1, False))
            after_letters = False
        elif is_piece(token):
            kept, after_letters = kept + surface(token), False
        elif all((c.isalpha() or c == "'") and not _chinese.match(c) for c in token):
            items += [Spelled(kept + token, run_start, place + 1, False), None]
            kept, after_letters = "", True
        else:
            items.append(Spelled(token, place, place + 1, False))
    before = ["", *items]
    return _join_letters([word._replace(space_before=before[i] is None) for i, word in enumerate(items) if word])


def join(tokens: Sequence[str]) -> str:
    """Return the text of a row of tokens without special ones."""
    return "".join(" " * word.space_before + word.text for word in spell(tokens))


def _join_letters(words: Sequence[Spelled]) -> list[Spelled]:
    """Return the words with single letters in a row made one word in capitals."""
    joined: list[Spelled] = []
    letters = 0
    for word in words:
        is_letter = len(word.text) == 1 and word.text.isascii() and word.text.isalpha()
        letters = letters + 1 if is_letter and (word.space_before or not letters) else int(is_letter)
        if letters > 1:
            last = joined.pop()
            joined.append(last._replace(text=last.text.upper() + word.text.upper(), stop=word.stop))
        else:
            joined.append(word)
    return joined
