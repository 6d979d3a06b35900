"""Reads a data folder of Kaldi: `wav.scp` and `text`, perhaps with `segments` or `utt2dur`."""

import dataclasses
from pathlib import Path

from asr.data.manifests.json_lines import Line
from asr.data.manifests.lines import contents, read_lines, to_seconds, to_start
from asr.data.manifests.manifest import Reading
from asr.errors import UserError
from asr.untrusted import shown

SEGMENTS = "segments"
"""File beside `wav.scp` whose lines cut its recordings into utterances: name, recording, start and end in seconds."""


def read_kaldi(folder: Path, root: Path) -> Reading:
    """Return the entries of a data folder; relative paths in `wav.scp` start from the folder, or else from `root`.

    Each line of a file is a name, blanks, and a value. With `segments`, the names in `wav.scp` are those of recordings.
    No command is ever run: a line of `wav.scp` that ends in `|` is a problem.

    Raises:
        UserError: files are missing.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with wav.scp and text; {contents(folder.parent)}")
    has_segments = (folder / SEGMENTS).exists()
    reading = Reading(folder / (SEGMENTS if has_segments else "wav.scp"), root)
    sounds = _read_table(folder / "wav.scp", "lines of a name and a sound file", reading)
    texts = _read_table(folder / "text", "lines of an utterance and its text", reading)
    if has_segments:
        names, utterances = _cut(folder / SEGMENTS, sounds, reading)
    else:
        seconds = _read_seconds(folder / "utt2dur", reading)
        names = set(sounds)
        utterances = [
            (number, Line(path, name, None, None, seconds.get(name))) for name, (number, path) in sounds.items()
        ]
    for number, line in utterances:
        text_number, text = texts.get(line.name, (0, ""))
        if not line.source:
            reading.refuse(number, f"the path of {shown(line.name)} is missing")
        elif line.name not in texts:
            reading.refuse(number, f"no text of {shown(line.name)} in {folder / 'text'}")
        elif not text:
            reading.problems.append(f"{folder / 'text'}:{text_number}: the text of {shown(line.name)} is empty")
        else:
            reading.add(number, dataclasses.replace(line, text=text))
    for name in (name for name in texts if name not in names):
        where = f"{folder / 'text'}:{texts[name][0]}"
        reading.problems.append(f"{where}: no sound of {shown(name)} in {reading.manifest.name}")
    return reading


def parse_segment(value: str) -> tuple[str, float, float | None]:
    """Return (recording, start, length) of a line of `segments` behind its name; an end of -1 is that of the file.

    A ValueError says what is wrong with it.
    """
    parts = value.split()
    if len(parts) != 3:
        raise ValueError(f"expected a recording, its start and its end in seconds, found {shown(value)}")
    recording, start, end = parts
    start_s = to_start(start)
    if end == "-1":
        return recording, start_s, None
    end_s = to_seconds(end)
    if end_s <= start_s:
        raise ValueError(f"expected an end behind the start at {start} s, found {end}")
    return recording, start_s, end_s - start_s


def _cut(
    path: Path, recordings: dict[str, tuple[int, str]], reading: Reading
) -> tuple[set[str], list[tuple[int, Line]]]:
    """Return the names in `segments`, and (line number, parts of recordings) of the lines that can be used."""
    table, utterances = _read_table(path, "lines of an utterance, its recording, start and end", reading), []
    for name, (number, value) in table.items():
        try:
            recording, start_s, seconds = parse_segment(value)
        except ValueError as error:
            reading.refuse(number, error)
            continue
        if recording in recordings:
            utterances.append((number, Line(recordings[recording][1], name, start_s=start_s, seconds=seconds)))
        else:
            reading.refuse(number, f"no recording {shown(recording)} in wav.scp")
    return set(table), utterances


def _read_table(path: Path, expected: str, reading: Reading) -> dict[str, tuple[int, str]]:
    """Return name → (line, value); a name that comes twice becomes a problem."""
    table = {}
    for number, line in read_lines(path, expected):
        name, *value = line.split(maxsplit=1)
        if name in table:
            earlier = f"{path}:{table[name][0]}"
            reading.problems.append(f"{path}:{number}: the utterance {shown(name)} is already in {earlier}")
        else:
            table[name] = (number, value[0].strip() if value else "")
    return table


def _read_seconds(path: Path, reading: Reading) -> dict[str, float]:
    """Return name → seconds; empty if there is no such file."""
    seconds = {}
    table = _read_table(path, "lines of an utterance and its seconds", reading) if path.exists() else {}
    for name, (line, value) in table.items():
        try:
            seconds[name] = to_seconds(value)
        except ValueError as error:
            reading.problems.append(f"{path}:{line}: {error}")
    return seconds
