"""What all command lines share: how a mistake is answered."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from asr.errors import (
    EXIT_INTERRUPTED,
    EXIT_NOBODY_READS,
    EXIT_NON_FINITE,
    EXIT_OK,
    EXIT_PEER_LOST,
    EXIT_TERMINATED,
    EXIT_USER_ERROR,
    NonFiniteError,
    PeerLostError,
    UserError,
)
from asr.untrusted import printable

CODES = {UserError: EXIT_USER_ERROR, NonFiniteError: EXIT_NON_FINITE, PeerLostError: EXIT_PEER_LOST}


def run_command(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code; a mistake is printed as one message, without a traceback.

    SIGTERM ends a command as Ctrl-C does: what it was writing is tidied up on the way.
    """
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        sys.exit(_code_of(main))
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_training_command(main: Callable[[], int | None]) -> None:
    """Call `main` as `run_command` does, for a command whose threads may hang and which sees to its signals itself.

    A code other than 0 ends the process without waiting for any thread. Before `main` sees to the signals, while
    libraries are imported, there is nothing to tidy up: they end the process at once. (An exception raised then can
    get lost in a library, or end the process in the middle of its start.)
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_before_the_start)
    code = _code_of(main)
    if code != EXIT_OK:
        leave_at_once(code)
    sys.exit(code)


def _code_of(main: Callable[[], int | None]) -> int:
    """Return the exit code of a command; print its mistake."""
    try:
        code = main() or EXIT_OK
        print(end="", flush=True)  # here, where a reader that is gone is noticed
        return code
    except BrokenPipeError:  # who reads what is printed, `head` for example, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush would complain
        return EXIT_NOBODY_READS
    except tuple(CODES) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return CODES[type(error)]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _raise_terminated(_number, _frame) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one does not wait
    print("terminated", file=sys.stderr)
    sys.exit(EXIT_TERMINATED)


def _leave_before_the_start(number, _frame) -> None:
    told = "stopped before the run began: start again\n"
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), told.encode())
    os._exit(EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED)


def leave_at_once(code: int) -> None:
    """End the process now: what was printed is shown, and no thread is waited for, as one of them may hang."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
