"""Which files are transcribed, and where the results go.

With a folder for the results, of `talk.wav` comes `talk.txt` (or `.json`, `.srt`, `.vtt`, `.ctm`). The sub-folders of a
folder are kept. Where a name is taken by an earlier file, the later one becomes `talk_2`. A file appears when it is
complete.
"""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from asr.data.audio import SUFFIXES
from asr.errors import UserError
from asr.files import writing_aside


@dataclasses.dataclass(frozen=True)
class Job:
    """One sound file and what comes of it.

    Attributes:
        source: the sound file.
        result: file of the transcript; None for the standard output.
    """

    source: Path
    result: Path | None


def plan_jobs(inputs: Sequence[Path], out: Path | None, suffix: str) -> list[Job]:
    """Return a job for each sound file, no two of which write the same file.

    Args:
        inputs: files, taken as they are, and folders, searched with their sub-folders in the order of the names.
        out: folder of the results; if it lies inside an input folder, it is not searched. None: no files.
        suffix: of the results, such as `.txt`.

    Raises:
        UserError: no sound in a folder, or a result would overwrite an input.
    """
    found = [pair for path in inputs for pair in _find_sounds(path, out)]
    by_source: dict[Path, tuple[Path, Path]] = {}
    for source, parent in found:
        by_source.setdefault(source.resolve(), (source, parent))  # a file given twice is transcribed once
    if out is None:
        return [Job(source, None) for source, _ in by_source.values()]
    taken: set[str] = set()
    jobs = [Job(source, _free_name(out / parent / source.stem, suffix, taken)) for source, parent in by_source.values()]
    for job in jobs:
        if job.result.resolve() in by_source:
            raise UserError(
                f"--out {out}: the result of {job.source} would overwrite the input {job.result}; choose another folder"
            )
    return jobs


def write_text(path: Path, text: str) -> None:
    """Write a text file, which appears when it is complete; its folder is made if need be.

    Raises:
        UserError: the disk refuses.
    """
    with writing_aside(path, parents=True) as aside:
        aside.write_text(text, encoding="utf-8")


def _find_sounds(path: Path, out: Path | None) -> list[tuple[Path, Path]]:
    """Return (file, its folder relative to `path`) of each sound file below a folder, or of the one file."""
    if not path.is_dir():
        return [(path, Path())]
    files = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file())
    inside = out.resolve() if out and path.resolve() in out.resolve().parents else None
    found = [(f, f.parent.relative_to(path)) for f in files if not inside or not f.resolve().is_relative_to(inside)]
    if not found:
        raise UserError(f"{path}: no sound file is in this folder (looked for {', '.join(SUFFIXES)})")
    return found


def _free_name(stem: Path, suffix: str, taken: set[str]) -> Path:
    """Return the first of stem, stem_2, … whose name is free, and take it."""
    for number in itertools.count(1):
        path = stem.with_name(f"{stem.name if number == 1 else f'{stem.name}_{number}'}{suffix}")
        name = os.path.normpath(path).casefold()  # some file systems ignore the case
        if name not in taken:
            taken.add(name)
            return path
    raise AssertionError("unreachable")
