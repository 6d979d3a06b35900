"""Reads manifests: JSON lines as FunASR and NeMo write them, and tables with tabs between their columns.

A reader goes through the whole manifest. A line that cannot be used becomes a problem that names file and line, and
reading continues, so that one run lists all of them.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from asr.data.manifests.entries import Entries
from asr.errors import UserError
from asr.files import open_file
from asr.untrusted import HALF_CHARACTER, escaped, shown

MAX_MANIFEST_BYTES, MAX_LINE_BYTES = 1 << 32, 1 << 24

MAX_NAME_CHARACTERS = 1024
"""Longest name or path of an utterance; messages quote it, and Linux has no path of more than 4,096 bytes."""

MAX_COLUMNS_SHOWN, MAX_NAMES_SHOWN = 20, 12

FUNASR_KEYS, NEMO_KEYS = ("source", "target"), ("audio_filepath", "text")
"""JSON keys of path and text. A line may be of either kind, and may have more keys."""

COLUMNS = ("path", "text", "split")
"""Required columns of a table; `utt` and `seconds` are read too, all others are ignored."""

NOT_UNICODE = "characters that no file name or text can have (NUL or half a character)"

_CONTROL = re.compile("[\x01-\x1f\x7f-\x9f]")
_IN_ARCHIVE = re.compile(r"\.ark:\d+(\[.*\])?$")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Reading:
    """The lines of `manifest` so far: `entries` that can be used, and `problems`, a message for each that cannot."""

    def __init__(self, manifest: Path, root: Path):
        """Start without a line; relative paths of sound files start from `root`."""
        self.manifest, self._root = manifest, root
        self.entries, self.problems = Entries(str(manifest)), []
        self._lines: dict[str, int] = {}
        self._paths: dict[str, int | str] = {}  # the place in `entries.paths`, or what is wrong with the path

    def where(self, line: int) -> str:
        """Return file and line, for messages."""
        return f"{self.manifest}:{line}"

    def refuse(self, line: int, reason: Any) -> None:
        """Note why a line cannot be used."""
        self.problems.append(f"{self.where(line)}: {reason}")

    def add(self, name: str, path: str, text: str, line: int, seconds: Any = None) -> None:
        """Add an entry, or note why it cannot be used; `seconds` is the stated length, or None."""
        number = self._path_number(path)
        try:
            stated_s = None if seconds is None else to_seconds(seconds)
        except ValueError as error:
            self.refuse(line, error)
            return
        if problem := _text_problem(name, text) or (number if isinstance(number, str) else ""):
            self.refuse(line, problem)
        elif name in self._lines:
            self.refuse(line, f"the utterance {shown(name)} is already in {self.where(self._lines[name])}")
        else:
            self.entries.append(name, number, text, line, stated_s)
        self._lines.setdefault(name, line)

    def _path_number(self, path: str) -> int | str:
        """Return the place of a path in `entries.paths`, or what is wrong with it; each path is checked once."""
        if path not in self._paths:
            whole = str(self._root / path)
            number = _name_problem(whole) or explain_no_path(path) or len(self.entries.paths)
            if isinstance(number, int):
                self.entries.paths.append(whole)
            self._paths[path] = number
        return self._paths[path]


def read_jsonl(path: Path, root: Path) -> Reading:
    """Return the entries of a manifest with a JSON object on each line.

    FunASR: `{"key", "source", "source_len", "target", "target_len"}`; the lengths are ignored, since they count
    frames of the program that wrote them. NeMo: `{"audio_filepath", "duration", "text"}`; without a key `utt_id` the
    path is the name, and an `offset` into the file is refused.
    """
    reading = Reading(path, root)
    for number, line in read_lines(path, "a manifest with a JSON object on each line"):
        try:
            name, source, text, seconds = _json_entry(_parse(line))
        except ValueError as error:
            reading.refuse(number, error)
        else:
            reading.add(name, source, text, number, seconds)
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


def _json_entry(content: dict) -> tuple[str, str, str, Any]:
    """Return (name, path, text, seconds or None); a ValueError says what is wrong with the line."""
    keys = FUNASR_KEYS if "source" in content and "audio_filepath" not in content else NEMO_KEYS
    if missing := [key for key in keys if key not in content]:
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
    return name, path, text, content.get("duration")


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
        if row["path"]:
            name = row.get("utt", row["path"])
            reading.add(name, row["path"], row["text"], number, row.get("seconds") or None)
        else:
            reading.refuse(number, "the path is empty")
    for split in splits.split("+"):
        if not lines_of_split[split]:
            known = ", ".join(f"{shown(name)} ({n})" for name, n in lines_of_split.most_common(MAX_NAMES_SHOWN))
            raise UserError(f"{path}: no line of the split {split!r}; the column split has {known or 'nothing'}")
    return reading


def read_lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines of a UTF-8 file that are not blank; messages say what was `expected`.

    Raises:
        UserError: a file that is missing, is not UTF-8, has more than MAX_MANIFEST_BYTES, or a line longer than
            MAX_LINE_BYTES.
    """
    try:
        with open_file(path) as file:
            yield from _lines_of(path, file, expected)
    except OSError as error:
        raise UserError(f"{path}: expected {expected} ({error.strerror}); {contents(path.parent)}") from None


def _lines_of(path: Path, file: BinaryIO, expected: str) -> Iterator[tuple[int, str]]:
    number, num_bytes = 0, 0
    while content := file.readline(MAX_LINE_BYTES + 1):
        num_bytes += len(content)
        if len(content) > MAX_LINE_BYTES or num_bytes > MAX_MANIFEST_BYTES:
            raise UserError(
                f"{path}:{number + 1}: expected at most {MAX_LINE_BYTES} bytes in a line and {MAX_MANIFEST_BYTES} in a "
                "file, found more"
            )
        try:
            text = content.decode("utf-8-sig" if num_bytes == len(content) else "utf-8")
        except UnicodeDecodeError as error:
            line = number + content[: error.start].count(b"\r") + 1
            raise UserError(f"{path}:{line}: expected {expected} in UTF-8, found other bytes") from None
        # On old Macs a lone \r ends a line.
        for line in text.removesuffix("\n").removesuffix("\r").split("\r"):
            number += 1
            if line.strip():
                yield number, line


def explain_no_path(source: str) -> str:
    """Return why what a manifest names as the sound is not a file's path, "" where it is one."""
    if source.endswith("|") or source.startswith("|"):
        return f"{shown(source)} is a command; commands are not run, write its sound to a file"
    if _IN_ARCHIVE.search(source):
        return f"{shown(source)} is a place in a Kaldi archive, which is not read; write its sound to a file (wav-copy)"
    if _ADDRESS.match(source):
        return f"{shown(source)} is an address; nothing is downloaded, save its sound in a file"
    return ""


def to_seconds(value: Any) -> float:
    """Return a stated length as a number; a ValueError says that it is not one above 0."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected seconds above 0, found {shown(value)}")
    return seconds


def contents(folder: Path) -> str:
    """Return a phrase that lists what a folder holds."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(escaped(f"{entry.name}/" if entry.is_dir() else entry.name) for entry in folder.iterdir())
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return f"{folder} holds {', '.join(names[:MAX_NAMES_SHOWN]) or 'nothing'}{more}"


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
