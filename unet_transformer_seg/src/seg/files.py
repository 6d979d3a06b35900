"""Reads files that may be hostile, and writes files atomically.

A name may belong to an endless device, a pipe without a writer, or a planted link. A writer may be killed, and a disk
may be full.
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

from seg.errors import UserError
from seg.untrusted import escaped

ASIDE = ".part"  # suffix of a file that is being written; a killed process leaves it behind

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

# Without O_NONBLOCK, opening a pipe waits for its other end.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

T = TypeVar("T")

Reader = Callable[[Path, int], bytes]  # A function (path, max_bytes) → bytes, such as `read_bounded`


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading, following a link; a folder, a pipe or a device raises a UserError."""
    return _opened(path, _READ, "rb")


def open_log(path: Path) -> BinaryIO:
    """Open a regular file for appending, creating it if needed; a link is not followed."""
    return _opened(path, _APPEND, "ab")


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file of at most `max_bytes`; an OSError means that it cannot be read."""
    with open_file(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"{path}: expected at most {max_bytes} bytes, found more")
    return content


def decoded(path: Path, content: bytes, expected: str) -> str:
    """Return UTF-8 bytes as text, without a byte order mark, with line feeds only; an error names file and line."""
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: expected {expected} in UTF-8, found other bytes") from None


@contextlib.contextmanager
def writing_aside(path: Path, *, parents: bool = False) -> Iterator[Path]:
    """Yield the path of a new, empty file, which is renamed to `path` after the body, or removed on an error.

    If `path` is a link, the link is replaced, not its target. `parents` creates its folder if needed.
    """
    with naming_the_file(path):
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            yield aside


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Like `writing_aside`, but a write error stays an OSError, for callers with a message of their own."""
    _check_replaceable(path)
    aside, descriptor = _new(path.parent, lambda name: os.open(name, _NEW, 0o666))
    os.close(descriptor)
    try:
        yield aside
        aside.replace(path)
    finally:
        with contextlib.suppress(OSError):  # an error of the body must not be hidden
            aside.unlink()


@contextlib.contextmanager
def naming_the_file(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a UserError that names the file or folder being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which is renamed to `folder` after the body, or removed on an error.

    An existing folder or link of this name is replaced.
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
    """Replace a file by a UTF-8 text: a kill or a power failure leaves the whole old or the whole new file.

    An OSError means that it cannot be written.
    """
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def replace_json(path: Path, value: Any) -> None:
    """Replace a file by `value` as JSON, see `replace_text`."""
    replace_text(path, json.dumps(value, indent=1) + "\n")


def sync_directory(directory: Path) -> None:
    """Flush the names in `directory` to the disk, so that a rename survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuses_all(error: UserError) -> bool:
    """Return whether the disk refuses every file, as a full one does, not only the one named in the error."""
    return getattr(error.__cause__, "errno", None) in _DISK_ERRORS


def is_aside(path: Path) -> bool:
    """Return whether a file was left behind by a killed writer."""
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
    """Refuse to replace a folder, a pipe, or a device such as /dev/stdout."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # missing, or a broken link
        return
    except ValueError:
        raise _impossible(path) from None
    _check_regular(path, mode)


def _impossible(path: Path) -> UserError:
    return UserError(f"{escaped(str(path))}: no file can have this name")


def _new(folder: Path, make: Callable[[Path], T]) -> tuple[Path, T]:
    """Return an unguessable hidden path below `folder`, and the result of `make` for it."""
    while True:
        path = folder / f".{secrets.token_hex(8)}{ASIDE}"
        with contextlib.suppress(FileExistsError):
            return path, make(path)


def _exchange(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; the old folder is removed afterwards, or restored on an error."""
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
