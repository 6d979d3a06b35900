"""The messages of a run: on the terminal, and in its log file."""

import contextlib
import io
import logging
import logging.handlers
from pathlib import Path

import jax

from seg.distributed import is_main
from seg.files import naming_the_file, open_log
from seg.record.progress_bar import write_above_line
from seg.untrusted import harmless

log = logging.getLogger("seg")


class _HarmlessFormatter(logging.Formatter):
    """Escapes control characters, which a file name may contain: a log is read on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


class _AboveProgressLine(logging.Handler):
    def __init__(self):
        super().__init__()
        self.callers = log.level, log.propagate

    def emit(self, record: logging.LogRecord) -> None:
        write_above_line(self.format(record))


class _LogFile(logging.FileHandler):
    """A file whose write errors do not end the run: lines get lost, and the terminal warns once."""

    def __init__(self, path: Path):
        with naming_the_file(path):
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._warned = False

    def _open(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(open_log(Path(self.baseFilename)), encoding=self.encoding, errors=self.errors)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self._warned:
            self._warned = True
            write_above_line(f"warning: {self.baseFilename} cannot be written; lines will be missing there")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def setup_logging() -> None:
    """Send the messages of `seg` to the terminal, and keep them for the log file until it is open.

    A process other than the first of its run shows only its warnings, with its number.
    """
    close_logging()
    terminal, pending = _AboveProgressLine(), logging.handlers.MemoryHandler(capacity=10_000, flushLevel=1000)
    terminal.setLevel(logging.INFO if is_main() else logging.WARNING)
    prefix = "" if is_main() else f"process {jax.process_index()}: "
    terminal.setFormatter(_HarmlessFormatter(f"{prefix}%(message)s"))
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(terminal)
    log.addHandler(pending)


def open_log_file(path: Path) -> None:
    """Write the pending messages to a file, and from now on all messages and the details of each step."""
    file = _LogFile(path)
    file.setFormatter(_HarmlessFormatter("%(asctime)s %(levelname)s %(message)s"))
    for pending in [h for h in log.handlers if isinstance(h, logging.handlers.MemoryHandler)]:
        pending.setTarget(file)
        log.removeHandler(pending)
        pending.close()
    log.addHandler(file)


def close_logging() -> None:
    """Undo `setup_logging` and `open_log_file`."""
    for handler in list(log.handlers):
        if isinstance(handler, _AboveProgressLine | logging.FileHandler | logging.handlers.MemoryHandler):
            log.removeHandler(handler)
            handler.close()
        if isinstance(handler, _AboveProgressLine):
            level, log.propagate = handler.callers
            log.setLevel(level)
