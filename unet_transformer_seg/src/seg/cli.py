"""What all command lines share: how a mistake and a signal are answered."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from seg.errors import (
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
from seg.signals import exit_code_of, listen, restore_handlers
from seg.untrusted import escaped, harmless, indented, printable

CODES = {UserError: EXIT_USER_ERROR, NonFiniteError: EXIT_NON_FINITE, PeerLostError: EXIT_PEER_LOST}


UP = "\x1b[A"
"""Moves the cursor up a line, as progress bars do."""


SCALES = "{trained,native,FACTOR}"
SCALE_HELP = (
    "size at which images are segmented; trained: as in training (data.fit: resize fits them into data.size, crop "
    "leaves them as they are); native: as they are; a number: magnified by it, 0.5 halves both sides. A mask always "
    "has the size of its image"
)


def run_command(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code; a mistake is printed as one message, without a traceback.

    Each signal that ordinarily ends a process ends a command as Ctrl-C does: what it was writing is tidied up on the
    way.
    """
    previous = listen(_raise_ended)
    signal.signal(signal.SIGINT, previous[signal.SIGINT])  # Python's own raises KeyboardInterrupt
    try:
        sys.exit(_code_of(main))
    finally:
        restore_handlers(previous)


def run_training_command(main: Callable[[], int | None]) -> None:
    """Call `main` as `run_command` does, for a command whose threads may hang and which sees to its signals itself.

    A code other than 0 ends the process without waiting for any thread. Before `main` sees to the signals, while
    libraries are imported, there is nothing to tidy up: they end the process at once. (An exception raised then can
    get lost in a library, or end the process in the middle of its start.)
    """
    listen(_leave_before_the_start)
    code = _code_of(main)
    if code != EXIT_OK:
        leave_at_once(code)
    sys.exit(code)


def _code_of(main: Callable[[], int | None]) -> int:
    """Return the exit code of a command; print its mistake. Nothing that it prints commands the terminal."""
    with _harmless_output():
        return _code_of_harmless(main)


def _code_of_harmless(main: Callable[[], int | None]) -> int:
    try:
        code = main() or EXIT_OK
    except BrokenPipeError:
        return _nobody_reads()
    except tuple(CODES) as error:
        _tell(f"error: {indented(printable(str(error)))}")
        return next(code for kind, code in CODES.items() if isinstance(error, kind))
    except KeyboardInterrupt:
        _tell("interrupted")
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        _tell(f"error: {escaped(str(error.filename))}: a name that is too long for this file system")
        return EXIT_USER_ERROR
    return _flushed(code)


def _flushed(code: int) -> int:
    """Show what was printed, and return the code; a run that was saved keeps its own although nobody reads any more."""
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        return code or _nobody_reads()
    except OSError as error:
        _drop_output()
        if error.errno == errno.EIO:  # the terminal was closed
            return code
        _tell(f"error: what was to be printed cannot be written ({error.strerror})")
        return code or EXIT_USER_ERROR
    return code


def _nobody_reads() -> int:
    """Return the code after which a reader, `head` for example, has had enough."""
    _drop_output()
    return EXIT_NOBODY_READS


def _drop_output() -> None:
    """Let what is still to be printed vanish, or the last flush would complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(message: str) -> None:
    """Print to stderr, if it is still there."""
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


def _raise_ended(number: int, _frame) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait
    _tell("terminated" if number == signal.SIGTERM else f"ended by {signal.Signals(number).name}")
    sys.exit(exit_code_of(number))


def _leave_before_the_start(number: int, _frame) -> None:
    told = "stopped before the run began: start again\n"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), told.encode())
    os._exit(exit_code_of(number))


def leave_at_once(code: int) -> None:
    """End the process now: what was printed is shown, and no thread is waited for, as one of them may hang."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class _HarmlessStream:
    """A stream of text on which no name or text of a stranger commands the terminal.

    A progress bar moves the cursor by return at the ends of what it writes, and by lines upwards alone.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # half characters, or a terminal that is not UTF-8

    def write(self, text: str) -> int:
        """Write a text with its harmful characters escaped."""
        inner = text.strip("\r")
        if inner.replace(UP, "").strip("\n"):
            start = text.index(inner)
            text = text[:start] + harmless(inner) + text[start + len(inner) :]
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
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
