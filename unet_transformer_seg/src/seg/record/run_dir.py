"""The directory of a run: its files, their creation, and their checks before a resume.

A run lives in `<runs_dir>/<YYYYmmdd_HHMMSS>_<name>/`:

    config.yaml        all settings, resolved; loads back equal
    classes.json       names and colours
    record.json        origin of the run and later changes, see `seg.record.run_record`
    environment.json   versions, devices, flags and compiler options, commit, command
    train.log          the messages of the terminal, and each logged step
    results.csv        one row per evaluation
    metrics.json       the same in detail, with the scores of each class
    curves.png         loss, scores and learning rate over the epochs
    samples/           predictions on validation samples as pictures
    checkpoints/       states to resume from and to predict with
"""

import datetime
import itertools
import json
import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from seg.classes import ClassTable, load_class_table
from seg.config import Config
from seg.config.reader import load_config, save_config
from seg.errors import UserError
from seg.files import read_bounded, replace_json
from seg.record.environment import describe_environment

MAX_ENVIRONMENT_BYTES = 1 << 20  # largest environment.json read, in bytes

READ_OR_REPLACED = ("config.yaml", "classes.json", "environment.json", "record.json", "results.csv", "metrics.json")
READ_OR_REPLACED += ("curves.png",)
APPENDED = ("train.log", "lock", "stacks.txt")
"""Files that are appended to in place: through a link, another file would be changed."""

FOLDERS = ("samples", "checkpoints", "profile", "tensorboard")


class RunDir:
    """The paths of one run, and the command that resumes it."""

    def __init__(self, path: Path):
        self.path, self.run_id = path, path.name  # the name identifies the run in tables
        self.resume_command = f"python -m seg.train --resume {shlex.quote(str(path))}"
        self.config_file = path / "config.yaml"  # the resolved settings
        self.classes_file = path / "classes.json"  # names and colours of the classes
        self.environment_file = path / "environment.json"  # versions, devices and flags
        self.log_file = path / "train.log"  # the messages of the terminal, and each logged step
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"  # pictures of validation samples

    def list_checkpoints(self) -> list[str]:
        """Return the folder names of the checkpoints that were saved, including damaged ones."""
        return sorted(path.name for path in self.checkpoints.glob("step_*"))


def create_run_dir(
    config: Config, classes: ClassTable, write_more: Callable[[RunDir], None] = lambda run: None
) -> RunDir:
    """Make the directory of a new run with the files that it starts from.

    `write_more` writes further files of a complete start; `environment.json` comes last.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", config.name):
        raise UserError(
            "name: expected 1 to 100 letters, digits, '.', '_' and '-', the first a letter or digit, "
            f"found {config.name!r}; it becomes part of a file name"
        )
    run = None
    try:
        Path(config.runs_dir).mkdir(parents=True, exist_ok=True)
        run = RunDir(_make_unused(Path(config.runs_dir), config.name))
        run.samples.mkdir()
        save_config(config, run.config_file)
        classes.save(run.classes_file)
        write_more(run)
        replace_json(run.environment_file, describe_environment())
    except OSError as error:
        if run is not None:
            shutil.rmtree(run.path, ignore_errors=True)
        where = f": {error.filename}" if error.filename else ""
        raise UserError(
            f"runs_dir: cannot make a run directory in {config.runs_dir} ({error.strerror or error}{where}); "
            "choose another folder with runs_dir=FOLDER"
        ) from None
    return run


def open_run_dir(path: Path) -> RunDir:
    """Return the paths of an existing run."""
    run = RunDir(Path(path))
    if not run.path.is_dir():
        raise UserError(f"{path}: expected a run directory, such as runs/20250131_120000_name, found no folder")
    for file in (run.config_file, run.classes_file):
        if not file.is_file():
            raise UserError(f"{file.parent}: not a complete run directory, {file} is missing; put it back")
    return run


def load_run(path: Path) -> tuple[Config, ClassTable]:
    """Return the settings and the classes of the run in `path`."""
    run = open_run_dir(path)
    try:
        return load_config(run.config_file), load_class_table(run.classes_file)
    except UserError as error:
        raise UserError(f"{error}. It is a file of the run: put it back") from None


def check_run_files(run: RunDir) -> list[str]:
    """Return warnings about files that a resume does not need, and rewrite the missing ones; a folder is refused."""
    for name in (*READ_OR_REPLACED, *APPENDED):
        _check_file(run.path / name, may_be_link=name in READ_OR_REPLACED)
    for name in FOLDERS:
        path = run.path / name
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{path}: expected a folder of the run, found something else; move it away")
    warnings, log_file = [], run.log_file
    if not (log_file.is_file() and log_file.stat().st_size):
        state = "empty" if log_file.is_file() else "missing"
        warnings.append(f"{log_file} is {state}: earlier messages are lost; a new file is started")
    return [*warnings, *_check_environment(run.environment_file)]


def _check_file(path: Path, may_be_link: bool) -> None:
    try:
        mode = path.stat().st_mode if may_be_link else path.lstat().st_mode
    except OSError:  # missing
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}
        kind = kinds.get(stat.S_IFMT(mode), "a pipe or a device")
        raise UserError(f"{path}: expected a file of the run, found {kind}; put the file back, or move this away")


def _check_environment(path: Path) -> list[str]:
    try:
        if isinstance(json.loads(read_bounded(path, MAX_ENVIRONMENT_BYTES)), dict):
            return []
        reason = "not a mapping"
    except FileNotFoundError:
        replace_json(path, describe_environment())
        return [f"{path} was missing and now describes this start"]
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error!s:.200}"
    return [f"{path} is damaged ({reason}); the run does not need it"]


def _make_unused(parent: Path, name: str) -> Path:
    """Make and return a new directory; two runs of one name may start within one second."""
    stamp = datetime.datetime.now().strftime("%Y%m%d_%H%M%S")
    for number in itertools.count():
        path = parent / f"{stamp}_{name}{f'_{number}' if number else ''}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    raise AssertionError("unreachable")
