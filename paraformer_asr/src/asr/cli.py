"""The frame of every command: exit codes, messages, signals and safe output."""

import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from asr.errors import (
    EXIT_INTERRUPTED,
    EXIT_NOBODY_READS,
    EXIT_NON_FINITE,
    EXIT_OK,
    EXIT_PEER_LOST,
    EXIT_USER_ERROR,
    NonFiniteError,
    PeerLostError,
    UserError,
)
from asr.signals import exit_code_of, listen, restore_handlers
from asr.untrusted import escaped, harmless, indented

CODES = {UserError: EXIT_USER_ERROR, NonFiniteError: EXIT_NON_FINITE, PeerLostError: EXIT_PEER_LOST}


UP = "\x1b[A"  # escape sequence of progress bars: cursor up one line


def run_command(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code; a mistake is printed as one message, without a traceback.

    Every ending signal acts like Ctrl-C: partial output is removed first.
    """
    previous = listen(_raise_ended)
    signal.signal(signal.SIGINT, previous[signal.SIGINT])  # Python's own handler raises KeyboardInterrupt
    try:
        sys.exit(_code_of(main))
    finally:
        restore_handlers(previous)


def run_training_command(main: Callable[[], int | None]) -> None:
    """Call `main` like `run_command`, for a command whose threads may hang and that handles signals itself.

    A code other than 0 ends the process without waiting for its threads. Until `main` installs its handlers, while
    libraries are imported, a signal ends the process at once. (An exception raised then could get lost in a library.)
    """
    listen(_leave_before_the_start)
    code = _code_of(main)
    if code != EXIT_OK:
        leave_at_once(code)
    sys.exit(code)


def _code_of(main: Callable[[], int | None]) -> int:
    """Return the exit code of a command and print its error, with control characters escaped."""
    with _harmless_output():
        logging.basicConfig(format="%(message)s")  # before a library that is imported sets its own
        return _code_of_harmless(main)


def _code_of_harmless(main: Callable[[], int | None]) -> int:
    try:
        code = main() or EXIT_OK
    except BrokenPipeError:
        return _closed_pipe()
    except tuple(CODES) as error:
        _print_error(f"error: {indented(str(error))}")
        return next(code for kind, code in CODES.items() if isinstance(error, kind))
    except KeyboardInterrupt:
        _print_error("interrupted")
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        _print_error(f"error: {escaped(str(error.filename))}: the name is too long for this file system")
        return EXIT_USER_ERROR
    return _flushed(code)


def _flushed(code: int) -> int:
    """Flush the output and return the code; a saved run keeps its code even if the reader closed the pipe."""
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        return code or _closed_pipe()
    except OSError as error:
        _drop_output()
        if error.errno == errno.EIO:  # the terminal was closed
            return code
        _print_error(f"error: cannot write the output ({error.strerror})")
        return code or EXIT_USER_ERROR
    return code


def _closed_pipe() -> int:
    """Return the code for a closed pipe, as after `| head`."""
    _drop_output()
    return EXIT_NOBODY_READS


def _drop_output() -> None:
    """Discard pending output, on which the final flush would fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(message: str) -> None:
    """Print to stderr, if it is still open."""
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


def _raise_ended(number: int, _frame) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends at once
    _print_error("terminated" if number == signal.SIGTERM else f"ended by {signal.Signals(number).name}")
    sys.exit(exit_code_of(number))


def _leave_before_the_start(number: int, _frame) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), b"stopped before the run began: start again\n")
    os._exit(exit_code_of(number))


def leave_at_once(code: int) -> None:
    """Flush the output and end the process without waiting for threads, which may hang."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class _HarmlessStream:
    """A text stream that escapes control characters.

    The cursor movements of progress bars pass: carriage returns at either end, and lines up on their own.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # lone surrogates, or a terminal without UTF-8

    def write(self, text: str) -> int:
        """Write a text with harmful characters escaped."""
        inner = text.strip("\r")
        if inner.replace(UP, "").strip("\n"):
            start = text.index(inner)
            text = text[:start] + harmless(inner) + text[start + len(inner) :]
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _harmless_output() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _HarmlessStream(sys.stdout), _HarmlessStream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
