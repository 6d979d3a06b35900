"""Settings in JSON beside published weights: read with bounds, and checked entry by entry."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg.errors import UserError
from seg.files import decoded, read_bounded
from seg.untrusted import shown

MAX_BYTES = 1 << 22  # largest file of settings
LARGEST = 1e30  # bound of a number, in either direction

KINDS = {
    dict: "a mapping",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def read_settings(path: Path, program: str) -> dict[str, Any]:
    """Return the settings in a JSON file that `program` wrote; an error names the file."""
    try:
        settings = json.loads(decoded(path, read_bounded(path, MAX_BYTES), "settings"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not valid JSON; copy it again") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected settings as {program} writes them, found {shown(settings)}")
    return settings


def entry(settings: Mapping[str, Any], key: str, kind: type, where: Any) -> Any:
    """Return an entry of the kind `dict`, `list`, `str`, `bool`, `int` or `float` (finite; an int counts as one)."""
    value = settings.get(key)
    fits = isinstance(value, bool) == (kind is bool) and isinstance(value, (int, float) if kind is float else kind)
    if not fits or (kind is float and not abs(value) < LARGEST):  # false for NaN
        found = f"found {shown(value)}" if key in settings else "it is missing"
        raise UserError(f"{where}: {key}: expected {KINDS[kind]}, {found}")
    return value
