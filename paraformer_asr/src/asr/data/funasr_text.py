"""Text as FunASR cuts it into tokens and joins it again, for the models that were published with it.

A `seg_dict` file tells the pieces of each known word, `hello he@@ llo`; a piece that ends in `@@` is joined to the
next. Chinese is written without spaces, and neither is there one between a Chinese character and a word in Latin
letters: `今天 hello world` becomes `今天hello world`. Digits count as Chinese here. Single letters in a row are an
abbreviation: `c n n` becomes `CNN`.
"""

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from asr.data.word_pieces import CONTINUED, Spelled
from asr.errors import UserError
from asr.files import decoded, read_bounded
from asr.untrusted import shown

SegDict = Mapping[str, tuple[str, ...]]
"""Word, in lower case → its tokens."""

MAX_SEG_DICT_BYTES = 1 << 28

_chinese = re.compile(r"[\u4e00-\u9fff0-9@]+")
_can_be_cut = re.compile(r"[\u4e00-\u9fa5A-Za-z0-9]")


def read_seg_dict(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the words of a file with a word and its pieces, all between blanks, on each line.

    Raises:
        UserError: an unreadable file, or a line with a word and no pieces.
    """
    try:
        lines = decoded(path, read_bounded(path, MAX_SEG_DICT_BYTES), "words and their pieces").splitlines()
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
    path.write_text("".join(f"{word} {' '.join(pieces)}\n" for word, pieces in seg_dict.items()), encoding="utf-8")


def cut(text: str, seg_dict: SegDict, tokens: Container[str]) -> list[tuple[str, str | None]]:
    """Return the text as a row of (characters, token), the token None for what has none.

    A word of the `seg_dict` becomes its pieces. Any other falls into characters if it begins with a letter, a digit or
    a Chinese character, and is unknown as a whole if not. A character is looked up in the `seg_dict`, then (which
    FunASR does not do) among the tokens.

    Args:
        text: words between blanks; they are lower-cased.
        seg_dict: known words.
        tokens: of the model.
    """
    row: list[tuple[str, str | None]] = []
    for word in text.lower().split():
        parts = [word] if word in seg_dict or not _can_be_cut.match(word) else list(word)
        for part in parts:
            pieces = seg_dict.get(part) or ((part,) if part in tokens else (None,))
            row += [(part, piece if piece in tokens else None) for piece in pieces]
    return row


def spell(tokens: Sequence[str]) -> list[Spelled]:
    """Return the words of a row of tokens, as FunASR joins them.

    A piece with `@@` whose word does not go on at once is kept for the next word in letters, and is lost at the end: so
    does FunASR. The place of such a word is that of its last parts.

    Args:
        tokens: without special ones.
    """
    words: list[Spelled] = []
    kept, run_start, after_letters = "", 0, False
    for place, token in enumerate(tokens):
        if not (place and CONTINUED in tokens[place - 1]):
            run_start = place
        if CONTINUED in token:
            kept += token.replace(CONTINUED, "")
        elif _chinese.fullmatch(token):
            interrupted = after_letters and CONTINUED in tokens[place - 1]  # a lost piece leaves its blank
            words.append(Spelled(token, place, place + 1, interrupted))
            after_letters = False
        elif all((c.isalpha() or c == "'") and not _chinese.match(c) for c in token):
            words.append(Spelled(kept + token, run_start, place + 1, after_letters))
            kept, after_letters = "", True
        else:
            words.append(Spelled(token, place, place + 1, after_letters))
            after_letters = False
    return _join_letters(words)


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
