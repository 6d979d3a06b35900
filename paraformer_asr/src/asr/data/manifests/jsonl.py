"""Reads a manifest with one JSON object on each line, as FunASR and as NeMo write it."""

import json
from pathlib import Path

from asr.data.manifests.manifest import Reading, read_lines, to_seconds
from asr.untrusted import escaped, shown

FUNASR_KEYS, NEMO_KEYS = ("source", "target"), ("audio_filepath", "text")
"""Path and text. A line may be of either kind, and may have further keys."""


def read_jsonl(path: Path, root: Path) -> Reading:
    """Return the entries of a manifest; relative paths of sound files start from `root`.

    FunASR: `{"key", "source", "source_len", "target", "target_len"}`; the lengths are not looked at, since they
    count frames of the program that wrote them. NeMo: `{"audio_filepath", "duration", "text"}`; without a key
    `utt_id` the utterance is called by its path, and an `offset` into the file is refused.

    Raises:
        UserError: the file cannot be read.
    """
    reading = Reading(path, root)
    for number, line in read_lines(path, "a manifest with a JSON object on each line"):
        try:
            _add(reading, _parse(line), number)
        except ValueError as error:
            reading.problems.append(f"{reading.where(number)}: {error}")
    return reading


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


def _add(reading: Reading, content: dict, line: int) -> None:
    """Take the entry in.

    Raises:
        ValueError: saying what is wrong with it.
    """
    keys = FUNASR_KEYS if "source" in content and "audio_filepath" not in content else NEMO_KEYS
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(
            f"the key {missing[0]!r} is missing; expected {' and '.join(FUNASR_KEYS)} (FunASR) or "
            f"{' and '.join(NEMO_KEYS)} (NeMo), found {escaped(', '.join(content)) or 'none'}"
        )
    path, text = (content[key] for key in keys)
    name = content.get("key", content.get("utt_id", path))
    for key, value in ((keys[0], path), (keys[1], text), ("key", name)):
        if not isinstance(value, str):
            raise ValueError(f"{key}: expected a text, found {shown(value)}")
    if not path:
        raise ValueError(f"{keys[0]}: the path is empty")
    if content.get("offset"):
        raise ValueError(f"an offset of {shown(content['offset'])} into the file; cut the file, or leave the line out")
    stated_s = to_seconds(content["duration"]) if content.get("duration") is not None else None
    reading.add(name, path, text, line, stated_s)
