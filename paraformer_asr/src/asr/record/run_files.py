"""The files of a run directory, looked at before a run is resumed: what stands in their places, and what is damaged."""

import json
import os
import stat
from pathlib import Path

from asr.errors import UserError
from asr.files import read_bounded, replace_json
from asr.record.run_dir import RunDir, describe_environment

MAX_ENVIRONMENT_BYTES = 1 << 20

READ_OR_REPLACED = ("config.yaml", "tokenizer.json", "bpe.model", "seg_dict", "cmvn.txt", "environment.json")
READ_OR_REPLACED += ("record.json", "results.csv", "metrics.json", "curves.png")
APPENDED = ("train.log", "lock", "stacks.txt")
"""Files that are written in place: through a link, something else would be written."""

FOLDERS = ("samples", "checkpoints", "profile", "tensorboard", "compile_cache")


def check_run_files(run: RunDir) -> list[str]:
    """Return what is to be said of files that are not needed to resume the run, and write those anew that are missing.

    Raises:
        UserError: a folder, a pipe, a device or a link stands where the run has a file, or a file where it has a
            folder.
    """
    for name in (*READ_OR_REPLACED, *APPENDED):
        _check_file(run.path / name, may_be_link=name in READ_OR_REPLACED)
    for name in FOLDERS:
        path = run.path / name
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{path}: expected a folder of the run, found something else; move it away")
    return [*_look_at_log(run.log_file), *_look_at_environment(run.environment_file)]


def _check_file(path: Path, may_be_link: bool) -> None:
    try:
        mode = path.stat().st_mode if may_be_link else path.lstat().st_mode
    except OSError:  # missing
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}
        found = kinds.get(stat.S_IFMT(mode), "a pipe or a device")
        raise UserError(f"{path}: expected a file of the run, found {found}; put the file back, or move this away")


def _look_at_log(path: Path) -> list[str]:
    if path.is_file() and path.stat().st_size:
        return []
    return [f"{path} is {'empty' if path.is_file() else 'missing'}: what earlier starts said is lost; it begins anew"]


def _look_at_environment(path: Path) -> list[str]:
    try:
        if isinstance(json.loads(read_bounded(path, MAX_ENVIRONMENT_BYTES)), dict):
            return []
        reason = "it holds no settings"
    except FileNotFoundError:
        replace_json(path, describe_environment())
        return [f"{path} was missing: it now says what this start runs on"]
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error!s:.200}"
    return [f"{path} is damaged ({reason}); the run does not need it"]
