"""Lists of sounds to transcribe: `wav.scp` as Kaldi writes it, and JSONL manifests as NeMo and FunASR write them.

    wav.scp   each line `name path`
    JSONL     each line {"audio_filepath", "offset", "duration"} or {"key", "source"}; only the path is required

A relative path starts from the folder of the list, or from the working directory if there is no such file. Texts are
ignored. Commands in a list are never run.
"""

import dataclasses
import json
import math
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from asr.data.manifests.manifest import explain_no_path, read_lines
from asr.data.sounds.audio import WHOLE, Span
from asr.errors import UserError
from asr.untrusted import shown

KALDI_SUFFIXES, JSON_SUFFIXES = (".scp",), (".jsonl", ".ndjson", ".json")
MAX_LISTED = 20  # most problems listed in an error message


@dataclasses.dataclass(frozen=True)
class Listed:
    """One line of a list."""

    name: str  # of the utterance, or its path without the suffix, of an absolute path the last part
    path: Path  # sound file
    span: Span = WHOLE  # the part of it
    where: str = dataclasses.field(default="", compare=False)  # list and line


def is_list(path: Path) -> bool:
    """Return whether a file is a list of sounds, by its suffix."""
    return path.suffix.lower() in KALDI_SUFFIXES + JSON_SUFFIXES


def read_list(path: Path) -> list[Listed]:
    """Return the lines of a list."""
    kaldi = path.suffix.lower() in KALDI_SUFFIXES
    parse = _parse_kaldi if kaldi else _parse_json
    lines = read_lines(path, "a list of sounds, each line a name and a path" if kaldi else "a JSON object on each line")
    sounds, problems = [], []
    for number, line in lines:
        try:
            listed = _checked(parse(line, _finder(path.parent)))
            sounds.append(dataclasses.replace(listed, where=f"{path}:{number}"))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        more = f"\n  … {len(problems)} in all" if len(problems) > MAX_LISTED else ""
        listed = "\n  ".join(problems[:MAX_LISTED])
        raise UserError(f"{path}: lines that cannot be used: {len(problems)}\n  {listed}{more}")
    if not sounds:
        raise UserError(f"{path}: expected a list of sounds, found an empty file")
    return sounds


def _checked(listed: Listed) -> Listed:
    """Refuse a name that no file can have."""
    bad = next((c for c in f"{listed.name}{listed.path}" if unicodedata.category(c) in ("Cc", "Cs")), None)
    if bad:
        raise ValueError(f"the character {bad!r} in a name or a path")
    return listed


def _parse_kaldi(line: str, find: Callable[[str], Path]) -> Listed:
    name, *rest = line.split(maxsplit=1)
    source = rest[0].strip() if rest else ""
    if not source:
        raise ValueError(f"expected a name and a path, found {shown(line.strip())}")
    return Listed(name, find(source))


def _parse_json(line: str, find: Callable[[str], Path]) -> Listed:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"expected a JSON object on one line, found {shown(line.strip())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object {{…}}, found {shown(content)}")
    source = content.get("audio_filepath", content.get("source"))
    if not isinstance(source, str) or not source:
        raise ValueError(f"expected 'audio_filepath' or 'source' with the path of a sound, found {shown(source)}")
    name = content.get("key", content.get("utt_id"))
    if name is not None and (not isinstance(name, str) or not name):
        raise ValueError(f"key: expected a text, found {shown(name)}")
    start_s = _seconds(content, "offset") or 0.0
    # The length of a whole file is ignored: it is often rounded.
    duration_s = _seconds(content, "duration") if start_s or "offset" in content else None
    if duration_s == 0.0:
        raise ValueError("duration: expected seconds above 0, found 0")
    if name is None:
        path = PurePosixPath(source)
        name = path.stem if path.is_absolute() else str(path.with_suffix(""))
    return Listed(name, find(source), Span(start_s, duration_s))


def _seconds(content: dict, key: str) -> float | None:
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{key}: expected seconds, at least 0, found {shown(value)}")
    return float(value)


def _finder(folder: Path) -> Callable[[str], Path]:

    def find(source: str) -> Path:
        if problem := explain_no_path(source):
            raise ValueError(problem)
        beside, here = folder / source, Path(source)
        return here if "\0" not in source and os.path.exists(here) and not os.path.exists(beside) else beside

    return find
