"""Reads files that may be hostile, and writes files that are there whole or not at all.

A name in a folder may stand for a device that never ends, for a pipe that nobody writes to, or for a link that
somebody planted. A writer may be killed, and a disk may be full.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from asr.errors import UserError
from asr.untrusted import escaped

ASIDE = ".part"
"""Suffix of what is being written; a process that is killed leaves it behind."""

_REFUSES_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

# A pipe would make us wait until somebody opens its other end.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

T = TypeVar("T")

Reader = Callable[[Path, int], bytes]
"""Returns the bytes of a file, given the most that it may have, as `read_bounded` does."""


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; a link to one is followed.

    Raises:
        OSError: it is missing or cannot be opened.
        UserError: naming the file: a folder, a pipe or a device, or a name that no file can have.
    """
    return _opened(path, _READ, "rb")


def open_log(path: Path) -> BinaryIO:
    """Open a regular file, made if need be, to append to it; a link is not followed.

    Raises:
        OSError: it cannot be opened.
        UserError: naming the file: a folder, a pipe or a device.
    """
    return _opened(path, _APPEND, "ab")


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: of the file.
        max_bytes: more than these are not read.

    Raises:
        OSError: it is missing or cannot be read.
        UserError: naming the file: a folder, a pipe or a device, or more than `max_bytes`.
    """
    with open_file(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"{path}: expected at most {max_bytes} bytes, found more")
    return content


def decoded(path: Path, content: bytes, expected: str) -> str:
    r"""Return the text of a file in UTF-8, a mark of the byte order left out, the ends of lines as `\n`.

    Args:
        path: of the file, for the message.
        content: of the file.
        expected: what it should be, for the message.

    Raises:
        UserError: naming the file and the line with other bytes.
    """
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: expected {expected} in UTF-8, found other bytes") from None


@contextlib.contextmanager
def writing_aside(path: Path, *, parents: bool = False) -> Iterator[Path]:
    """Give the path of a new, empty file; after the body it takes the name `path`, or vanishes on an error.

    Where `path` is a link to a file or to nothing, the link is replaced, not the file that it names.

    Args:
        path: of the file.
        parents: make its folder if need be.

    Raises:
        UserError: naming `path`: the disk refuses, or a folder, a pipe or a device has this name.
    """
    with naming_the_file(path):
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            yield aside


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Do what `writing_aside` does, for a caller that has more to say of a disk that refuses: it stays an OSError."""
    _check_replaceable(path)
    aside, descriptor = _new(path.parent, lambda name: os.open(name, _NEW, 0o666))
    os.close(descriptor)
    try:
        yield aside
        aside.replace(path)
    finally:
        with contextlib.suppress(OSError):  # an error of the body is what the user must hear of
            aside.unlink()


@contextlib.contextmanager
def naming_the_file(path: Path) -> Iterator[None]:
    """Make of an error of the disk a UserError that names the file or folder that the body writes."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`, to be filled; afterwards it takes that name, or vanishes on an error.

    A folder or a link that has the name already is replaced.

    Raises:
        UserError: naming `folder`: the disk refuses.
    """
    with naming_the_file(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial, _ = _new(folder.parent, os.mkdir)
        try:
            yield partial
            _exchange(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Replace `path` by a text in UTF-8: after a kill or a power failure the old or the new file is there, whole.

    Raises:
        OSError: the disk refuses.
        UserError: naming `path`: a folder, a pipe or a device has this name.
    """
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def replace_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON, as `replace_text` does."""
    replace_text(path, json.dumps(value, indent=1) + "\n")


def sync_directory(directory: Path) -> None:
    """Force the names in `directory` to the disk, so that a rename survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuses_all(error: UserError) -> bool:
    """Return whether the disk refuses any file, being full for example, and not the one that the error names."""
    return getattr(error.__cause__, "errno", None) in _REFUSES_ALL


def is_aside(path: Path) -> bool:
    """Return whether a file has the name of one that was being written when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(ASIDE)


def _opened(path: Path, flags: int, mode: str) -> BinaryIO:
    try:
        descriptor = os.open(path, flags, 0o666)
    except ValueError:  # NUL, or half a character
        raise _impossible(path) from None
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
        return open(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UserError(f"{path}: expected a file, found {what}")


def _check_replaceable(path: Path) -> None:
    """Refuse to replace a folder, a pipe or a device, such as /dev/stdout."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing is there, or a link to nothing
        return
    except ValueError:
        raise _impossible(path) from None
    _check_regular(path, mode)


def _impossible(path: Path) -> UserError:
    return UserError(f"{escaped(str(path))}: no file can have this name")


def _new(folder: Path, make: Callable[[Path], T]) -> tuple[Path, T]:
    """Return a hidden path below `folder` that nobody can guess, and what `make` made there."""
    while True:
        path = folder / f".{secrets.token_hex(8)}{ASIDE}"
        with contextlib.suppress(FileExistsError):
            return path, make(path)


def _exchange(new: Path, folder: Path) -> None:
    """Give `new` the name `folder`; what had it is removed afterwards, or has it again on an error."""
    if not os.path.lexists(folder):
        new.rename(folder)
        return
    old, _ = _new(folder.parent, folder.rename)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink()
