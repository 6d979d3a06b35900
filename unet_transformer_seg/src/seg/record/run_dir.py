"""The directory of a run: where everything lies that it read, did and found.

A run lives in `<runs_dir>/<YYYYmmdd_HHMMSS>_<name>/`:

    config.yaml        all settings, resolved; loads back equal
    classes.json       names and colours
    record.json        what the run was made of and what was changed since, see `seg.record.run_record`
    environment.json   versions, devices, flags and compiler options, commit, command
    train.log          what the terminal showed, and each logged step
    results.csv        one row for each evaluation
    metrics.json       the same in detail, with the scores of each class
    curves.png         loss, scores and learning rate over the epochs
    samples/           predictions on validation samples as pictures
    checkpoints/       states to resume from and to predict with
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from seg.classes import ClassTable, load_class_table
from seg.config import Config
from seg.config.reader import load_config, save_config
from seg.errors import UserError
from seg.files import read_bounded, replace_json
from seg.record.environment import describe_environment

MAX_ENVIRONMENT_BYTES = 1 << 20

READ_OR_REPLACED = ("config.yaml", "classes.json", "environment.json", "record.json", "results.csv", "metrics.json")
READ_OR_REPLACED += ("curves.png",)
APPENDED = ("train.log", "lock", "stacks.txt")
"""Files that are written in place: through a link, something else would be written."""

FOLDERS = ("samples", "checkpoints", "profile", "tensorboard")


@dataclasses.dataclass(frozen=True)
class RunDir:
    """The paths of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        """Name of the directory; identifies the run in tables."""
        return self.path.name

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return f"python -m seg.train --resume {self.path}"

    @property
    def config_file(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def classes_file(self) -> Path:
        """Names and colours of the classes."""
        return self.path / "classes.json"

    @property
    def environment_file(self) -> Path:
        """What the run's numbers may depend on besides its settings."""
        return self.path / "environment.json"

    @property
    def log_file(self) -> Path:
        """What the terminal showed, and each logged step."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoint store."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Directory of the pictures of validation samples."""
        return self.path / "samples"

    def list_checkpoints(self) -> list[str]:
        """Return the folder names of the checkpoints that were saved, including damaged ones."""
        return sorted(path.name for path in self.checkpoints.glob("step_*"))


def create_run_dir(
    config: Config, classes: ClassTable, write_more: Callable[[RunDir], None] = lambda run: None
) -> RunDir:
    """Make the directory of a new run, and write down what it starts from.

    Args:
        config: the resolved settings.
        classes: of the data set.
        write_more: writes what else belongs to a complete beginning; `environment.json` is the last file.

    Raises:
        UserError: a name that is no file name, or a place that cannot be written to.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", config.name):
        raise UserError(
            "name: expected 1 to 100 letters, digits, '.', '_' and '-', the first a letter or digit, "
            f"found {config.name!r}; it becomes a part of a file name"
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
            "choose another one with runs_dir=FOLDER"
        ) from None
    return run


def open_run_dir(path: Path) -> RunDir:
    """Return the paths of an existing run.

    Raises:
        UserError: no such directory, or one that is not a run's.
    """
    run = RunDir(Path(path))
    if not run.path.is_dir():
        raise UserError(f"{path}: expected a run directory such as runs/20250131_120000_name, but there is none")
    for file in (run.config_file, run.classes_file):
        _check_there(file)
    return run


def load_run(path: Path) -> tuple[Config, ClassTable]:
    """Return the settings and the classes of the run in `path`.

    Raises:
        UserError: not a run directory, or a file of it that cannot be read.
    """
    run = open_run_dir(path)
    with _own_file():
        return load_config(run.config_file), load_class_table(run.classes_file)


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"{file.parent}: not a complete run directory, {file} is missing; put it back")


@contextlib.contextmanager
def _own_file() -> Iterator[None]:
    """Say of a file that cannot be read that it is the run's own."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}. It is a file of the run: put it back") from None


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


def _make_unused(parent: Path, name: str) -> Path:
    """Make and return a directory that was not there; two runs of one name may start within one second."""
    stamp = datetime.datetime.now().strftime("%Y%m%d_%H%M%S")
    for number in itertools.count():
        path = parent / f"{stamp}_{name}{f'_{number}' if number else ''}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    raise AssertionError("unreachable")
