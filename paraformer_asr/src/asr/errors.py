"""Errors, and the exit codes of the commands."""

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_NON_FINITE = 3
EXIT_HANG = 4  # nothing completed for training.watchdog_minutes
EXIT_PEER_LOST = 5  # another process of a distributed run died
EXIT_UNFINISHED = 75  # stopped by --max-minutes: resume to continue
EXIT_INTERRUPTED = 130  # Ctrl-C
EXIT_NOBODY_READS = 141  # the reader of the output closed the pipe, as `head` does
EXIT_TERMINATED = 143  # SIGTERM
# Any other signal: 128 + its number, see `asr.signals`.


class UserError(ValueError):
    """A mistake in a config, a file or a command line.

    The message names the place (file, key, line), the expected and the actual value, and the remedy. Commands print it
    without a traceback and exit with `EXIT_USER_ERROR`.
    """


class NonFiniteError(ArithmeticError):
    """A loss or gradient became NaN or infinite; the message names the step."""


class PeerLostError(RuntimeError):
    """Another process of a distributed run died or became unreachable, and this one cannot continue."""
