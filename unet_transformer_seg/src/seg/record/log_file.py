"""The log file of a run, and how a message is written there and on the terminal."""

import contextlib
import io
import logging
from pathlib import Path

from seg.files import naming_the_file, open_log
from seg.record.progress_bar import write_above_line
from seg.untrusted import harmless


class HarmlessFormatter(logging.Formatter):
    """Escapes what would steer a terminal, as the name of a file may hold it: a log is looked at on one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines, of a record."""
        return harmless(super().format(record))


class LogFile(logging.FileHandler):
    """A file that no run breaks off for: what cannot be written is missing there, and the terminal says so once."""

    def __init__(self, path: Path):
        """Open the file to append to it.

        Raises:
            UserError: it cannot be opened, or a folder, a pipe, a device or a link has its name.
        """
        with naming_the_file(path):
            super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(open_log(Path(self.baseFilename)), encoding=self.encoding, errors=self.errors)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say once that lines are missing."""
        if not self.__dict__.setdefault("told", False):
            self.told = True
            write_above_line(f"warning: {self.baseFilename} cannot be written; lines will be missing there")

    def close(self) -> None:
        """Close the file, with what it still takes."""
        with contextlib.suppress(OSError):
            super().close()
