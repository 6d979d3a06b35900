"""The file `record.json` of a run, which holds its own checksum, and config.yaml beside it.

No jax is imported: a resume reads both files first.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from seg.config import Config
from seg.config.reader import load_config, read_config_text
from seg.errors import UserError
from seg.files import read_bounded, replace_text

log = logging.getLogger("seg")

RECORD_NAME, CONFIG_NAME = "record.json", "config.yaml"
MAX_RECORD_BYTES = 1 << 29
MAX_CONFIG_BYTES = 1 << 20


def write_record_file(run_path: Path, content: dict[str, Any]) -> None:
    """Write `record.json` atomically."""
    text = json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n"
    replace_text(run_path / RECORD_NAME, text)


def read_record_file(run_path: Path) -> dict[str, Any] | None:
    """Return the content of `record.json`; None for a run from before records existed."""
    path = run_path / RECORD_NAME
    try:
        content = json.loads(read_bounded(path, MAX_RECORD_BYTES))
        stated = content.pop("sha256")
        if stated != _digest(content):
            raise ValueError("its checksum does not match its content")
        return content
    except FileNotFoundError:
        return None
    except UserError as error:
        raise UserError(f"{error}; {repair_hint(path)}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error!s:.200}); {repair_hint(path)}") from None


def load_own_config(run_path: Path) -> Config:
    """Return the settings of a run from its config.yaml.

    A change of settings that a kill interrupted between record.json and config.yaml is completed.
    """
    path = run_path / CONFIG_NAME
    try:
        config, text = load_config(path), read_config_file(path)
        if not text.strip():
            raise UserError(f"{path}: expected the settings of the run, found an empty file")
    except UserError as error:
        raise UserError(f"{error}. It is a file of the run: put it back{_hint_to_the_record(run_path)}") from None
    record = read_record_file(run_path)
    if record is None or text != record.get("previous"):
        return config
    replace_text(path, record["config"])
    log.warning("%s: completed an interrupted change of settings", path)
    return read_config_text(record["config"], str(run_path / RECORD_NAME))


def read_config_file(path: Path) -> str:
    """Return the text of a config.yaml that loads."""
    return read_bounded(path, MAX_CONFIG_BYTES).decode("utf-8", errors="replace")


def repair_hint(path: Path) -> str:
    """Return what to do about a damaged record."""
    return f"put the file back, or move it away to resume without comparing: mv {path} {path}.damaged"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hint_to_the_record(run_path: Path) -> str:
    """Return where to find the settings, if they are in the record."""
    try:
        record = read_record_file(run_path)
    except UserError:
        record = None
    return f"; its text is also under 'config' in {run_path / RECORD_NAME}" if record else ""
