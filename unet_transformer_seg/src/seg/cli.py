"""What all command lines share: how a mistake is answered."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from seg.errors import (
    EXIT_INTERRUPTED,
    EXIT_NON_FINITE,
    EXIT_OK,
    EXIT_PEER_LOST,
    EXIT_TERMINATED,
    EXIT_USER_ERROR,
    NonFiniteError,
    PeerLostError,
    UserError,
)

CODES = {UserError: EXIT_USER_ERROR, NonFiniteError: EXIT_NON_FINITE, PeerLostError: EXIT_PEER_LOST}


def run_command(main: Callable[[], int | None], leave: Callable[[int], None] = sys.exit) -> None:
    """Call `main` and exit with its code; a mistake is printed as one message, without a traceback.

    SIGTERM ends a command as Ctrl-C does: what it was writing is tidied up on the way.

    Args:
        main: the command.
        leave: how a code other than 0 ends the process.
    """
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        code = main() or EXIT_OK
    except tuple(CODES) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        code = CODES[type(error)]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    if code != EXIT_OK:
        leave(code)
    sys.exit(code)


def printable(text: str) -> str:
    """Return the text with what would steer a terminal written out, as a name of a file may hold it."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _raise_terminated(_number, _frame) -> None:
    print("terminated", file=sys.stderr)
    sys.exit(EXIT_TERMINATED)


def leave_at_once(code: int) -> None:
    """End the process now: what was printed is shown, and no thread is waited for, as one of them may hang."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
