"""Reads a data folder of Kaldi: `wav.scp` and `text`, perhaps with `utt2dur`."""

from pathlib import Path

from asr.data.manifests.manifest import Reading, contents, read_lines, to_seconds
from asr.errors import UserError
from asr.untrusted import shown


def read_kaldi(folder: Path, root: Path) -> Reading:
    """Return the entries of a data folder; relative paths in `wav.scp` start from `root`.

    Each line of a file is a name, blanks, and a value. No command is ever run: a line of `wav.scp` that ends in `|`
    is a problem.

    Raises:
        UserError: files are missing, or the folder has `segments`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with wav.scp and text; {contents(folder.parent)}")
    if (folder / "segments").exists():
        raise UserError(
            f"{folder / 'segments'}: utterances that are parts of recordings are not read; "
            "write them to files of their own first (Kaldi's extract-segments)"
        )
    text_file = folder / "text"
    reading = Reading(folder / "wav.scp", root)
    sounds = _read_table(folder / "wav.scp", "lines of an utterance and a sound file", reading)
    texts = _read_table(text_file, "lines of an utterance and its text", reading)
    seconds = _read_seconds(folder / "utt2dur", reading)
    for name, (line, source) in sounds.items():
        text_line, text = texts.get(name, (0, ""))
        if not source:
            reading.refuse(line, f"the path of {shown(name)} is missing")
        elif name not in texts:
            reading.refuse(line, f"no text of {shown(name)} in {text_file}")
        elif not text:
            reading.problems.append(f"{text_file}:{text_line}: the text of {shown(name)} is empty")
        else:
            reading.add(name, source, text, line, seconds.get(name))
    for name in (name for name in texts if name not in sounds):
        reading.problems.append(f"{text_file}:{texts[name][0]}: no sound of {shown(name)} in wav.scp")
    return reading


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
