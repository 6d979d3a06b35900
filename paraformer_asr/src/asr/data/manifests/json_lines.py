"""What a line of a JSONL manifest says: the keys that NeMo, FunASR and others write."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from asr.data.manifests.lines import to_seconds, to_start
from asr.untrusted import escaped, shown

PATH_KEYS = ("audio_filepath", "source", "audio", "path")
TEXT_KEYS = ("text", "target")
NAME_KEYS = ("key", "utt_id")
"""JSON keys of path, text and name; of several in one line the first counts. All other keys are ignored."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a list.

    Attributes:
        source: the sound file as the list names it.
        name: of the utterance; None where it has none.
        text: what is said; None where it is not looked at.
        start_s: where its part of the file begins; None: it is the whole file.
        seconds: its length; None where it is not stated.
    """

    source: str
    name: str | None = None
    text: str | None = None
    start_s: float | None = None
    seconds: float | None = None


def parse_json_line(line: str, *, with_text: bool) -> Line:
    """Return what a line says; a ValueError says what is wrong with it."""
    content = _parse(line)
    source, name = _text_of(content, PATH_KEYS, "the sound"), _text_of(content, NAME_KEYS, None)
    if not source:
        raise ValueError(f"{_key(content, PATH_KEYS)}: the path is empty")
    text = _text_of(content, TEXT_KEYS, "the text") if with_text else None
    return Line(source, name, text, _number(content, "offset", to_start), _number(content, "duration", to_seconds))


def _parse(line: str) -> dict:
    try:
        content = json.loads(line)
    except RecursionError:
        raise ValueError("expected a JSON object, found brackets too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno}): {line[:60]!r}") from None
    except ValueError:
        raise ValueError(f"a number with too many digits: {line[:60]!r}") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object {{…}}, found {line[:60]!r}")
    return content


def _text_of(content: dict[str, Any], keys: tuple[str, ...], meaning: str | None) -> str | None:
    """Return the value of the first of the keys; None if there is none of them and it has no `meaning` to require."""
    key = _key(content, keys)
    if key is None and meaning is None:
        return None
    if key is None:
        raise ValueError(
            f"the key of {meaning} is missing; expected one of {', '.join(keys)}, "
            f"found {escaped(', '.join(content)) or 'none'}"
        )
    if not isinstance(content[key], str):
        raise ValueError(f"{key}: expected a text, found {shown(content[key])}")
    return content[key]


def _number(content: dict[str, Any], key: str, convert: Callable[[Any], float]) -> float | None:
    if content.get(key) is None:
        return None
    try:
        return convert(content[key])
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _key(content: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if key in content), None)
