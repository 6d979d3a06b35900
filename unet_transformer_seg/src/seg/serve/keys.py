"""The keys that clients may use."""

import os
from pathlib import Path

from seg.errors import UserError
from seg.files import read_bounded

KEYS_VARIABLE = "SEG_API_KEYS"
MAX_KEYS_BYTES = 1 << 16


def read_keys(file: Path | None) -> list[str]:
    """Return the keys in a file, one a line, and in the environment variable, separated by commas.

    Raises:
        UserError: the file cannot be read, or holds no key.
    """
    text = os.environ.get(KEYS_VARIABLE, "").replace(",", "\n")
    if file:
        try:
            content = read_bounded(file, MAX_KEYS_BYTES).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--api-key-file {file}: cannot be read ({error})") from None
        if not content.strip():
            raise UserError(f"--api-key-file {file}: holds no key; write one per line")
        text += "\n" + content
    return [line.strip() for line in text.splitlines() if line.strip()]
