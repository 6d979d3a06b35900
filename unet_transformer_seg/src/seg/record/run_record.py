"""`record.json` of a run: what the run was made of, to be compared when it is resumed, and what was changed since.

    config     the text of config.yaml as the run wrote it last; `previous`: the one before
    num_steps  updates in the whole run
    files      SHA-256 of the run's other files that give its weights their meaning
    classes    names and colours of the data set's classes
    data       by split, its fingerprint (`seg.data.fingerprint`)
    changes    by step, the settings and data that hold from there on
    sha256     of all of this

It is written with the run's other files at the start, and anew whenever something was changed with the user's leave.
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
from seg.record.record_file import (
    MAX_RECORD_BYTES,
    RECORD_NAME,
    read_record_file,
    way_on,
    write_record_file,
)
from seg.record.run_dir import RunDir

FILES = {"classes.json": "classes"}
"""Files of a run that give its weights their meaning → the name under which a change of them is allowed."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What `record.json` holds; see the head of this file.

    Attributes:
        config: text of config.yaml.
        num_steps: updates in the whole run.
        files: name → SHA-256.
        classes: of the data set, as `ClassTable` has them, in JSON values.
        data: split → fingerprint.
        changes: each with "step", "time", "settings" and "allowed".
        previous: text of config.yaml before the last change.
    """

    config: str
    num_steps: int
    files: dict[str, str]
    classes: dict[str, Any]
    data: dict[str, Fingerprint]
    changes: tuple[dict[str, Any], ...] = ()
    previous: str = ""


def make_record(
    run: RunDir, config: Config, num_steps: int, classes: ClassTable, data: dict[str, Fingerprint]
) -> RunRecord:
    """Return the record of a run whose files are written, but for config.yaml."""
    return RunRecord(config_text(config), num_steps, hash_files(run), _table(classes), data)


def hash_files(run: RunDir) -> dict[str, str]:
    """Return name → SHA-256 of those of `FILES` that are there."""
    there = [name for name in FILES if (run.path / name).is_file()]
    return {name: hashlib.sha256(read_bounded(run.path / name, MAX_RECORD_BYTES)).hexdigest() for name in there}


def save_record(run: RunDir, record: RunRecord) -> None:
    """Write `record.json`."""
    content = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    data = {split: fingerprint.to_json() for split, fingerprint in record.data.items()}
    write_record_file(run.path, content | {"data": data})


def load_record(run: RunDir) -> RunRecord | None:
    """Return what `record.json` holds; None of a run that was made before there were records.

    Raises:
        UserError: it is damaged.
    """
    content = read_record_file(run.path)
    try:
        if content is None:
            return None
        data = {split: Fingerprint.of_json(value) for split, value in content["data"].items()}
        return RunRecord(**content | {"data": data, "changes": tuple(content["changes"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        path = run.path / RECORD_NAME
        raise UserError(f"{path}: written by another version ({error!s:.200}); {way_on(path)}") from None


def file_differences(run: RunDir, record: RunRecord) -> dict[str, list[str]]:
    """Return name to be allowed → lines on the run's own files that are not as the run wrote them."""
    lines, now = {}, hash_files(run)
    for name in record.files | now:
        if record.files.get(name) != now.get(name):
            what = "is missing" if name not in now else "was added" if name not in record.files else "was edited"
            lines.setdefault(FILES[name], []).append(f"{run.path / name} {what} since the run wrote it")
    return lines


def data_differences(record: RunRecord, classes: ClassTable, data: dict[str, Fingerprint]) -> dict[str, list[str]]:
    """Return name to be allowed → lines on the data that are not what they were."""
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
    return {name: found for name, found in lines.items() if found}


def _table(classes: ClassTable) -> dict[str, Any]:
    """Return the table in JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(classes)))
