"""Plans which files are transcribed, and the names and places of their results.

In a folder for the results, `talk.wav` becomes `talk.txt` (or `.json`, `.srt`, `.vtt`, `.tsv`, `.ctm`); sub-folders are
kept. If an earlier file has taken the name, the result is `talk_2`. A name that would lead out of the folder or control
a terminal is replaced by a safe one.

Folders are searched for files whose first bytes or suffix are those of a sound (`asr.data.sounds.header`), including
unsupported kinds, which then get an error. Hidden files (`._talk.wav`) and the contents of `__MACOSX` are skipped.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from asr.data.sounds.audio import WHOLE, Span, count_channels
from asr.data.sounds.header import is_sound
from asr.errors import UserError
from asr.inference.sound_lists import is_list, read_list
from asr.untrusted import check_inside, name_key, safe_path

MAX_NAME_CHARACTERS = 200


@dataclasses.dataclass(frozen=True)
class Job:
    """One sound file, or a part of it, and its result."""

    source: Path  # the sound file
    result: Path | None  # file of the transcript; None for the standard output
    name: str = ""  # unique name in results: the path of `result` in its folder, without the suffix
    label: str = ""  # name in messages and lines of text: the path, or for a line of a list the name
    span: Span = WHOLE  # the part of the file
    channel: int | None = None  # its only channel, from 1; None: as the config says
    is_renamed: bool = False  # its own name was taken or not safe
    where: str = dataclasses.field(default="", compare=False)  # list and line that name it

    @property
    def part(self) -> str:
        """Span and channel in words; empty for a whole file."""
        span = "" if self.span == WHOLE else f"{self.span.duration_s} s from {self.span.start_s} s on"
        return span if self.channel is None else f"{span} of channel {self.channel}"


def plan_jobs(inputs: Sequence[Path], out: Path | None, suffix: str) -> list[Job]:
    """Return a job for each sound, each with a name and a result of its own.

    Files are taken as they are, folders are searched with their sub-folders in the order of the names, and lists are
    read (`asr.inference.sound_lists`). The folder `out` of the results is not searched; without one there are no files.
    """
    planned = [job for path in inputs for job in _find_sounds(path, out)]
    by_sound: dict[tuple, Job] = {}
    for job in planned:  # a file named twice is transcribed once
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


def split_channels(jobs: Sequence[Job]) -> list[Job]:
    """Return a job for each channel of each sound; the result `talk.txt` becomes `talk.ch1.txt` and `talk.ch2.txt`.

    A file that cannot be read keeps one job, which names the error when its turn comes.
    """
    return [
        dataclasses.replace(
            job,
            channel=channel,
            result=job.result and job.result.with_name(f"{job.result.stem}.ch{channel}{job.result.suffix}"),
        )
        for job in jobs
        for channel in range(1, _count_channels(job.source) + 1)
    ]


def _count_channels(path: Path) -> int:
    try:
        return count_channels(path)
    except UserError:
        return 1


def _find_sounds(path: Path, out: Path | None) -> Iterator[Job]:
    """Yield a job for each sound in a folder or a list, or for the one file.

    Names are not unique yet, so the label of a line of a list is still empty.
    """
    if path.is_dir():
        for file in _sounds_in(path, out):
            yield Job(file, None, (file.parent.relative_to(path) / "_").as_posix()[:-1] + file.stem, str(file))
    elif is_list(path):
        for one in read_list(path):
            name = "/".join(part[:MAX_NAME_CHARACTERS] for part in one.name.split("/"))
            yield Job(one.path, None, name, "", one.span, where=one.where)
    else:
        yield Job(path, None, path.stem, str(path))


def _sounds_in(folder: Path, out: Path | None) -> list[Path]:
    """Return the sounds below a folder, without those in the folder of the results."""
    inside = out.resolve() if out and folder.resolve() in out.resolve().parents else None
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    seen = [file for file in files if not _is_hidden(file.relative_to(folder))]
    sounds = [f for f in seen if is_sound(f) and not (inside and f.resolve().is_relative_to(inside))]
    if not sounds:
        listed = f"; to transcribe its list, name {folder / 'wav.scp'}" if (folder / "wav.scp").exists() else ""
        hidden = f" and {len(files) - len(seen)} hidden" if len(seen) < len(files) else ""
        raise UserError(
            f"{folder}: no sound file is in this folder (found {len(seen)} other{hidden} files; expected WAV, FLAC, "
            f"OGG, MP3, M4A, WebM, …){listed}"
        )
    return sounds


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _free_name(name: str, suffix: str, taken: set[str]) -> str:
    """Return the first of name, name_2, … that is free with this suffix, and take it."""
    for number in itertools.count(1):
        free = name if number == 1 else f"{name}_{number}"
        key = name_key(re.sub(r"\s", "_", free) + suffix)  # a CTM has no blanks
        if key not in taken:
            taken.add(key)
            return free
    raise AssertionError("unreachable")
