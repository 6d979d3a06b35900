"""Lists of sounds to transcribe, by the rules of the manifests that training reads (`asr.data.manifests`).

    wav.scp   each line `name path`, as Kaldi writes it; a file `segments` beside it cuts the recordings
    JSONL     each line {"audio_filepath", "offset", "duration"}; only the path is required

A relative path starts from the folder of the list, or from the working directory if there is no such file. Texts are
ignored. Commands in a list are never run.
"""

import dataclasses
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from asr.data.manifests.json_lines import parse_json_line
from asr.data.manifests.kaldi import SEGMENTS, parse_segment
from asr.data.manifests.lines import find_path, read_lines
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
    """Return the lines of a list; of a `wav.scp` with `segments` beside it, the segments.

    Raises:
        UserError: a list that is missing or empty, or lines that cannot be used; the first of them are listed.
    """
    if path.suffix.lower() not in KALDI_SUFFIXES:
        return _read(path, "a JSON object on each line", _parse_json)
    sounds = _read(path, "a list of sounds, each line a name and a path", _parse_kaldi)
    segments = path.parent / SEGMENTS
    if path.name != "wav.scp" or not segments.exists():
        return sounds
    recordings = {sound.name: sound.path for sound in sounds}
    expected = "lines of an utterance, its recording, start and end"
    return _read(segments, expected, lambda line, _: _cut(line, recordings))


def _read(path: Path, expected: str, parse: Callable[[str, Path], Listed]) -> list[Listed]:
    """Return what `parse` makes of each line and the folder of the list; its ValueErrors are collected."""
    sounds, problems = [], []
    for number, line in read_lines(path, expected):
        try:
            sounds.append(dataclasses.replace(_checked(parse(line, path.parent)), where=f"{path}:{number}"))
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


def _parse_kaldi(line: str, folder: Path) -> Listed:
    name, *rest = line.split(maxsplit=1)
    source = rest[0].strip() if rest else ""
    if not source:
        raise ValueError(f"expected a name and a path, found {shown(line.strip())}")
    return Listed(name, find_path(source, folder, Path()))


def _cut(line: str, recordings: dict[str, Path]) -> Listed:
    name, *rest = line.split(maxsplit=1)
    recording, start_s, duration_s = parse_segment(rest[0] if rest else "")
    if recording not in recordings:
        raise ValueError(f"no recording {shown(recording)} in wav.scp")
    return Listed(name, recordings[recording], Span(start_s, duration_s))


def _parse_json(line: str, folder: Path) -> Listed:
    content = parse_json_line(line, with_text=False)
    # The length of a whole file is ignored: it is often rounded.
    span = WHOLE if content.start_s is None else Span(content.start_s, content.seconds)
    path = PurePosixPath(content.source)
    stem = path.stem if path.is_absolute() else str(path.with_suffix(""))
    name = content.name or (stem if content.start_s is None else f"{stem}@{content.start_s:g}")
    return Listed(name, find_path(content.source, folder, Path()), span)
