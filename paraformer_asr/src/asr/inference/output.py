"""Which files are transcribed, what the results are called, and where they go.

With a folder for the results, of `talk.wav` comes `talk.txt` (or `.json`, `.srt`, `.vtt`, `.ctm`). The sub-folders of a
folder are kept. Where a name is taken by an earlier file, the later one becomes `talk_2`, and a name that would lead
out of the folder or steer a terminal becomes a safe one. A file appears when it is complete.

In a folder a file is a sound if its first bytes or its suffix say so (`asr.data.sounds.header`): also one of a kind
that is not read, to be named. Other files, hidden ones (`._talk.wav`) and what lies in `__MACOSX` are passed over.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from asr.data.sounds.audio import WHOLE, Span
from asr.data.sounds.header import is_sound
from asr.errors import UserError
from asr.file_names import check_inside, name_key, safe_path
from asr.inference.sound_lists import is_list, read_list

MAX_NAME_CHARACTERS = 200


@dataclasses.dataclass(frozen=True)
class Job:
    """One sound file, or a part of it, and what comes of it.

    Attributes:
        source: the sound file.
        result: file of the transcript; None for the standard output.
        name: what results call it, no two of them alike; the path of `result` in its folder, without the suffix.
        label: what messages and lines of text call it: the path, or for a line of a list the name.
        span: the part of the file.
        is_renamed: its own name was taken, or would not be safe.
        where: list and line that name it.
    """

    source: Path
    result: Path | None
    name: str = ""
    label: str = ""
    span: Span = WHOLE
    is_renamed: bool = False
    where: str = dataclasses.field(default="", compare=False)

    @property
    def part(self) -> str:
        """The span in words; empty for a whole file."""
        return "" if self.span == WHOLE else f"{self.span.duration_s} s from {self.span.start_s} s on"


def plan_jobs(inputs: Sequence[Path], out: Path | None, suffix: str) -> list[Job]:
    """Return a job for each sound, no two of which have the same name or write the same file.

    Args:
        inputs: files, taken as they are; folders, searched with their sub-folders in the order of the names; and
            lists (`asr.inference.sound_lists`).
        out: folder of the results; if it lies inside an input folder, it is not searched. None: no files.
        suffix: of the results, such as `.txt`.

    Raises:
        UserError: no sound in a folder, a list that cannot be used, or a result would overwrite an input or lie outside
            of `out`.
    """
    wanted = [job for path in inputs for job in _find_sounds(path, out)]
    by_sound: dict[tuple, Job] = {}
    for job in wanted:  # a file given twice is transcribed once
        by_sound.setdefault((job.source.resolve(), job.span, "" if job.label else job.name), job)
    sources = {source for source, *_ in by_sound}
    safe_names = [safe_path(job.name) for job in by_sound.values()]
    taken = {name_key(parent.as_posix()) for name in safe_names for parent in PurePosixPath(name).parents}
    jobs = []
    for job, safe_name in zip(by_sound.values(), safe_names, strict=True):
        name = _free_name(safe_name, suffix, taken)
        result = None if out is None else out / f"{name}{suffix}"
        if result is not None:
            check_inside(out, result)
            if result.resolve() in sources:
                raise UserError(
                    f"--out {out}: the result of {job.source} would overwrite the input {result}; choose another folder"
                )
        renamed = name != job.name
        jobs.append(dataclasses.replace(job, result=result, name=name, label=job.label or name, is_renamed=renamed))
    return jobs


def _find_sounds(path: Path, out: Path | None) -> Iterator[Job]:
    """Yield a job for each sound below a folder, of a list, or for the one file.

    Its name may be taken; the label of a line of a list is still empty, for its name may change.
    """
    if path.is_dir():
        for file in _sounds_in(path, out):
            yield Job(file, None, (file.parent.relative_to(path) / "_").as_posix()[:-1] + file.stem, str(file))
    elif is_list(path):
        yield from (Job(one.path, None, _short(one.name), "", one.span, where=one.where) for one in read_list(path))
    else:
        yield Job(path, None, path.stem, str(path))


def _sounds_in(folder: Path, out: Path | None) -> list[Path]:
    """Return the sounds below a folder that is no result's."""
    inside = out.resolve() if out and folder.resolve() in out.resolve().parents else None
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    seen = [file for file in files if not _is_hidden(file.relative_to(folder))]
    found = [f for f in seen if is_sound(f) and not (inside and f.resolve().is_relative_to(inside))]
    if not found:
        hidden = f" and {len(files) - len(seen)} hidden" if len(seen) < len(files) else ""
        raise UserError(
            f"{folder}: no sound file is in this folder (found {len(seen)} other{hidden} files; expected WAV, FLAC, "
            "OGG or MP3)"
        )
    return found


def _is_hidden(path: Path) -> bool:
    """Return whether a file is one that a system keeps for itself."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _short(name: str) -> str:
    """Return the name that a list gives an utterance with parts that a file can have as a name."""
    return "/".join(part[:MAX_NAME_CHARACTERS] for part in name.split("/"))


def _free_name(name: str, suffix: str, taken: set[str]) -> str:
    """Return the first of name, name_2, … that is free with this suffix, and take it."""
    for number in itertools.count(1):
        free = name if number == 1 else f"{name}_{number}"
        key = name_key(re.sub(r"\s", "_", free) + suffix)  # a CTM has no blanks
        if key not in taken:
            taken.add(key)
            return free
    raise AssertionError("unreachable")
