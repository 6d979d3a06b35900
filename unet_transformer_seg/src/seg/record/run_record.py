"""`record.json` of a run: its origin, compared on each resume, and the changes since.

    config     text of config.yaml as last written; `previous`: the text before
    num_steps  updates in the whole run
    files      SHA-256 of the other files that the meaning of the weights depends on
    classes    names and colours of the data set's classes
    data       fingerprint of each split (`seg.data.fingerprint`)
    changes    by step: the settings and data from there on
    sha256     of all the above

It is written with the other files at the start, and again whenever the user allows a change.
"""

import dataclasses
import hashlib
import json
from typing import Any

from seg.classes import ClassTable
from seg.config import Config
from seg.config.reader import config_text
from seg.data.fingerprint import Fingerprint, describe_differences
from seg.errors import UserError
from seg.files import read_bounded
from seg.record.record_file import MAX_RECORD_BYTES, RECORD_NAME, read_record_file, repair_hint, write_record_file
from seg.record.run_dir import RunDir

FILES = {"classes.json": "classes"}
"""Files that the meaning of the weights depends on → the name that `--allow-changed` takes."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The content of `record.json`, see the head of this file."""

    config: str  # text of config.yaml
    num_steps: int  # updates in the whole run
    files: dict[str, str]  # name → SHA-256
    classes: dict[str, Any]  # of the data set, as `ClassTable` has them, in JSON values
    data: dict[str, Fingerprint]  # split → fingerprint
    changes: tuple[dict[str, Any], ...] = ()  # each with "step", "time", "settings" and "allowed"
    previous: str = ""  # text of config.yaml before the last change


def make_record(
    run: RunDir, config: Config, num_steps: int, classes: ClassTable, data: dict[str, Fingerprint]
) -> RunRecord:
    """Return the record of a run whose files are written, except config.yaml."""
    return RunRecord(config_text(config), num_steps, hash_files(run), _table(classes), data)


def hash_files(run: RunDir) -> dict[str, str]:
    """Return name → SHA-256 of the `FILES` that exist."""
    present = [name for name in FILES if (run.path / name).is_file()]
    return {name: hashlib.sha256(read_bounded(run.path / name, MAX_RECORD_BYTES)).hexdigest() for name in present}


def save_record(run: RunDir, record: RunRecord) -> None:
    """Write `record.json`."""
    content = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    data = {split: fingerprint.to_json() for split, fingerprint in record.data.items()}
    write_record_file(run.path, content | {"data": data})


def load_record(run: RunDir) -> RunRecord | None:
    """Return the content of `record.json`; None for a run from before records existed."""
    content = read_record_file(run.path)
    try:
        if content is None:
            return None
        data = {split: Fingerprint.of_json(value) for split, value in content["data"].items()}
        return RunRecord(**content | {"data": data, "changes": tuple(content["changes"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        path = run.path / RECORD_NAME
        raise UserError(f"{path}: written by a different version ({error!s:.200}); {repair_hint(path)}") from None


def file_differences(run: RunDir, record: RunRecord) -> dict[str, list[str]]:
    """Return name for `--allow-changed` → lines about the run's own files that have changed."""
    lines, now = {}, hash_files(run)
    for name in record.files | now:
        if record.files.get(name) != now.get(name):
            what = "is missing" if name not in now else "was added" if name not in record.files else "was edited"
            lines.setdefault(FILES[name], []).append(f"{run.path / name} {what} since the run wrote it")
    return lines


def data_differences(record: RunRecord, classes: ClassTable, data: dict[str, Fingerprint]) -> dict[str, list[str]]:
    """Return name for `--allow-changed` → lines about data that have changed."""
    lines = {}
    for split, fingerprint in data.items():
        differences = describe_differences(record.data.get(split, Fingerprint()), fingerprint)
        lines.setdefault("data", []).extend(f"{split} split: {line}" for line in differences)
    for number, (before, after) in enumerate(zip(record.classes["names"], classes.names, strict=False)):
        if before != after:
            lines.setdefault("classes", []).append(f"class {number} of the data set was {before!r}, is {after!r}")
    for key, value in _table(classes).items():
        if key != "names" and record.classes.get(key) != value:
            lines.setdefault("classes", []).append(f"the {key.replace('_', ' ')} of the data set's classes was changed")
    return {name: differences for name, differences in lines.items() if differences}


def _table(classes: ClassTable) -> dict[str, Any]:
    """Return the table in JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(classes)))
