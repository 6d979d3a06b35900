"""Reads a list of tokens from a file: one token a line, or a JSON list as FunASR's tokens.json."""

import json
from pathlib import Path

from asr.errors import UserError
from asr.files import decoded, read_bounded
from asr.untrusted import shown

MAX_TOKEN_FILE_BYTES = 1 << 26


def read_token_file(path: Path) -> list[str]:
    """Return the tokens of a file, in order, special ones included where the file has them.

    A file that begins with `[` and is JSON is a JSON list of texts; any other has one token on each line,
    surrounding blanks and empty lines at the end left out.

    Raises:
        UserError: an unreadable file, an empty one, or an entry that is no token or occurs twice, with its line.
    """
    text = _read(path)
    listed = _json_list(text)
    tokens = listed if listed is not None else [line.strip() for line in text.rstrip().splitlines()]
    if not tokens:
        raise UserError(f"{path}: expected a list of tokens, found an empty one")
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens, 1):
        where = f"{path}: entry {number}" if listed is not None else f"{path}:{number}"
        if not isinstance(token, str) or not token:
            raise UserError(f"{where}: expected a token, found {shown(token)}" if token else f"{where}: an empty token")
        if not token.isprintable() and any("\ud800" <= c <= "\udfff" for c in token):
            raise UserError(f"{where}: expected a token, found half a character in {shown(token)}")
        if token in seen:
            raise UserError(f"{where}: the token {shown(token)} stands in place {seen[token]} already")
        seen[token] = number
    return tokens


def _read(path: Path) -> str:
    try:
        return decoded(path, read_bounded(path, MAX_TOKEN_FILE_BYTES), "a list of tokens")
    except OSError as error:
        raise UserError(f"{path}: cannot read the list of tokens ({error.strerror})") from None


def _json_list(text: str) -> list | None:
    """Return the JSON list that the text is, or None; `[` may also be the first of the tokens, one a line."""
    if not text.lstrip().startswith("["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
