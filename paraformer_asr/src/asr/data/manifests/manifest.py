"""Reads manifests: JSON lines as FunASR and NeMo write them, and tables with tabs between their columns.

A reader goes through the whole manifest. A line that cannot be used becomes a problem that names file and line, and
reading continues, so that one run lists all of them.
"""

import re
from collections import Counter
from pathlib import Path

from asr.data.manifests.entries import Entries
from asr.data.manifests.json_lines import Line, parse_json_line
from asr.data.manifests.lines import MAX_NAMES_SHOWN, find_path, read_lines, to_seconds
from asr.errors import UserError
from asr.untrusted import HALF_CHARACTER, shown

MAX_NAME_CHARACTERS = 1024
"""Longest name or path of an utterance; messages quote it, and Linux has no path of more than 4,096 bytes."""

MAX_COLUMNS_SHOWN = 20

COLUMNS = ("path", "text", "split")
"""Required columns of a table; `utt` and `seconds` are read too, all others are ignored."""

NOT_UNICODE = "characters that no file name or text can have (NUL or half a character)"

_CONTROL = re.compile("[\x01-\x1f\x7f-\x9f]")


class Reading:
    """The lines of `manifest` so far: `entries` that can be used, and `problems`, a message for each that cannot."""

    def __init__(self, manifest: Path, root: Path):
        """Start without a line; relative paths of sound files start from the manifest's folder, or else from `root`."""
        self.manifest, self._folders = manifest, (manifest.parent, root)
        self.entries, self.problems = Entries(str(manifest)), []
        self._lines: dict[str, int] = {}
        self._paths: dict[str, int | str] = {}  # the place in `entries.paths`, or what is wrong with the path

    def where(self, line: int) -> str:
        """Return file and line, for messages."""
        return f"{self.manifest}:{line}"

    def refuse(self, line: int, reason: object) -> None:
        """Note why a line cannot be used."""
        self.problems.append(f"{self.where(line)}: {reason}")

    def add(self, line: int, content: Line) -> None:
        """Add an entry, or note why it cannot be used; without a name it has that of its sound and its start."""
        number, start_s = self._path_number(content.source), content.start_s
        name = content.source if start_s is None else f"{content.source}@{start_s}"
        name = name if content.name is None else content.name
        if problem := _text_problem(name, content.text or "") or (number if isinstance(number, str) else ""):
            self.refuse(line, problem)
        elif name in self._lines:
            self.refuse(line, f"the utterance {shown(name)} is already in {self.where(self._lines[name])}")
        else:
            self.entries.append(name, number, content.text, line, content.seconds, start_s)
        self._lines.setdefault(name, line)

    def _path_number(self, source: str) -> int | str:
        """Return the place of a path in `entries.paths`, or what is wrong with it; each path is checked once."""
        if source not in self._paths:
            try:
                whole = str(find_path(source, *self._folders))
            except ValueError as error:
                self._paths[source] = _name_problem(source) or str(error)
            else:
                self._paths[source] = _name_problem(whole) or len(self.entries.paths)
                if isinstance(self._paths[source], int):
                    self.entries.paths.append(whole)
        return self._paths[source]


def read_jsonl(path: Path, root: Path) -> Reading:
    """Return the entries of a manifest with a JSON object on each line.

    FunASR: `{"key", "source", "source_len", "target", "target_len"}`; the lengths are ignored, since they count
    frames of the program that wrote them. NeMo: `{"audio_filepath", "text", "offset", "duration"}`. Without a key
    `key` or `utt_id` the path is the name, and for a part of a file the path and its start.
    """
    reading = Reading(path, root)
    for number, line in read_lines(path, "a manifest with a JSON object on each line"):
        try:
            reading.add(number, parse_json_line(line, with_text=True))
        except ValueError as error:
            reading.refuse(number, error)
    return reading


def read_tsv(path: Path, splits: str, root: Path) -> Reading:
    """Return the entries of some splits of a table; the first line names its columns, in any order.

    Without a column `utt` the path is the name. `splits` are values of the column `split`, joined by `+`.
    """
    lines = read_lines(path, "a table with the columns path, text and split")
    columns = next(lines, (1, ""))[1].split("\t")
    if missing := [column for column in COLUMNS if column not in columns]:
        raise UserError(
            f"{path}:1: expected the columns {', '.join(COLUMNS)} with tabs between them, found no {missing[0]!r} "
            f"among {', '.join(map(shown, filter(None, columns[:MAX_COLUMNS_SHOWN]))) or 'nothing'}"
        )
    reading, lines_of_split = Reading(path, root), Counter()
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(columns):
            reading.refuse(number, f"expected {len(columns)} columns, found {len(values)}")
            continue
        row = dict(zip(columns, values, strict=True))
        lines_of_split[row["split"]] += 1
        if row["split"] not in splits.split("+"):
            continue
        try:
            seconds = to_seconds(row["seconds"]) if row.get("seconds") else None
        except ValueError as error:
            reading.refuse(number, error)
            continue
        if row["path"]:
            reading.add(number, Line(row["path"], row.get("utt"), row["text"], None, seconds))
        else:
            reading.refuse(number, "the path is empty")
    for split in splits.split("+"):
        if not lines_of_split[split]:
            known = ", ".join(f"{shown(name)} ({n})" for name, n in lines_of_split.most_common(MAX_NAMES_SHOWN))
            raise UserError(f"{path}: no line of the split {split!r}; the column split has {known or 'nothing'}")
    return reading


def _text_problem(name: str, text: str) -> str:
    """Return what is wrong with the name of an utterance or its text, "" if nothing is."""
    if problem := _name_problem(name):
        return problem
    if HALF_CHARACTER.search(text):
        return NOT_UNICODE
    if not name:
        return "the name of the utterance is empty"
    return "" if text.strip() else f"the text of {shown(name)} is empty"


def _name_problem(name: str) -> str:
    if "\0" in name or HALF_CHARACTER.search(name):
        return NOT_UNICODE
    if control := _CONTROL.search(name):
        return f"the control character {control[0]!r} in a name or a path"
    too_long = len(name) > MAX_NAME_CHARACTERS
    return f"a name or path that is too long, more than {MAX_NAME_CHARACTERS} characters" if too_long else ""
