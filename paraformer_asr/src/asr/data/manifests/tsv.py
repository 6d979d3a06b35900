"""Reads a table of utterances with tabs between its columns and their names in the first line."""

from collections import Counter
from pathlib import Path

from asr.data.manifests.manifest import Reading, read_lines, to_seconds
from asr.errors import UserError
from asr.untrusted import shown

MAX_COLUMNS_SHOWN = 20

NEEDED, OPTIONAL = ("path", "text", "split"), ("utt", "seconds")
"""Columns that are read; others, as `speaker`, may stand among them, in any order."""


def read_tsv(path: Path, splits: str, root: Path) -> Reading:
    """Return the entries of some splits of a table; relative paths of sound files start from `root`.

    Without a column `utt` an utterance is called by its path.

    Args:
        path: the table.
        splits: values of the column `split`, with `+` between several.
        root: folder.

    Raises:
        UserError: the file cannot be read, lacks a column, or has no line of a split.
    """
    lines = read_lines(path, "a table with the columns path, text and split")
    first = next(lines, None)
    columns = first[1].split("\t") if first else []
    if missing := [column for column in NEEDED if column not in columns]:
        raise UserError(
            f"{path}:1: expected the columns {', '.join(NEEDED)} with tabs between them, "
            f"found no {missing[0]!r} among {', '.join(map(shown, columns[:MAX_COLUMNS_SHOWN])) or 'nothing'}"
        )
    reading, wanted, found = Reading(path, root), splits.split("+"), Counter()
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(columns):
            reading.problems.append(f"{path}:{number}: expected {len(columns)} columns, found {len(values)}")
            continue
        row = dict(zip(columns, values, strict=True))
        found[row["split"]] += 1
        if row["split"] in wanted:
            _add(reading, row, number)
    for split in wanted:
        if not found[split]:
            known = ", ".join(f"{shown(name)} ({count})" for name, count in found.most_common(12))
            raise UserError(f"{path}: no line of the split {split!r}; the column split has {known or 'nothing'}")
    return reading


def _add(reading: Reading, row: dict[str, str], line: int) -> None:
    if not row["path"]:
        reading.problems.append(f"{reading.where(line)}: the path is empty")
        return
    try:
        stated_s = to_seconds(row["seconds"]) if row.get("seconds") else None
    except ValueError as error:
        reading.problems.append(f"{reading.where(line)}: {error}")
        return
    reading.add(row.get("utt", row["path"]), row["path"], row["text"], line, stated_s)
