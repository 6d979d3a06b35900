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
    reading = Reading(folder / "wav.scp", root)
    sounds = _read_table(folder / "wav.scp", "lines of an utterance and a sound file", reading)
    texts = _read_table(folder / "text", "lines of an utterance and its text", reading)
    seconds = _read_seconds(folder / "utt2dur", reading)
    for name, (line, source) in sounds.items():
        try:
            _add(reading, line, name, source, texts, seconds)
        except ValueError as error:
            reading.problems.append(str(error))
    only_text = (
        f"{folder / 'text'}:{line}: no sound of {shown(name)} in wav.scp"
        for name, (line, _) in texts.items()
        if name not in sounds
    )
    reading.problems += only_text
    return reading


def _read_table(path: Path, expected: str, reading: Reading) -> dict[str, tuple[int, str]]:
    """Return name → (line, value); a name that comes twice becomes a problem."""
    table = {}
    for number, line in read_lines(path, expected):
        name, *value = line.split(maxsplit=1)
        if name in table:
            problem = f"{path}:{number}: the utterance {shown(name)} stands in {path}:{table[name][0]} already"
            reading.problems.append(problem)
        else:
            table[name] = (number, value[0].strip() if value else "")
    return table


def _read_seconds(path: Path, reading: Reading) -> dict[str, float]:
    """Return name → seconds; nothing where there is no such file."""
    seconds = {}
    table = _read_table(path, "lines of an utterance and its seconds", reading) if path.exists() else {}
    for name, (line, value) in table.items():
        try:
            seconds[name] = to_seconds(value)
        except ValueError as error:
            reading.problems.append(f"{path}:{line}: {error}")
    return seconds


def _add(reading: Reading, line: int, name: str, source: str, texts: dict, seconds: dict) -> None:
    """Take an entry in.

    Raises:
        ValueError: saying where and what is wrong with it.
    """
    where, text_file = reading.where(line), reading.manifest.with_name("text")
    if not source:
        raise ValueError(f"{where}: the path of {shown(name)} is missing")
    if name not in texts:
        raise ValueError(f"{where}: no text of {shown(name)} in {text_file}")
    text_line, text = texts[name]
    if not text:
        raise ValueError(f"{text_file}:{text_line}: the text of {shown(name)} is empty")
    reading.add(name, source, text, line, seconds.get(name))
