"""What can go wrong, and the exit codes that the command lines answer with."""

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_NON_FINITE = 3
EXIT_HANG = 4  # no step was completed in training.watchdog_minutes
EXIT_PEER_LOST = 5  # another process of a distributed run is gone
EXIT_UNFINISHED = 75  # stopped by --max-minutes: resume to go on
EXIT_INTERRUPTED = 130  # Ctrl-C
EXIT_NOBODY_READS = 141  # SIGPIPE: `… | head`
EXIT_TERMINATED = 143  # SIGTERM
# After any other signal that ends a process: 128 + its number, see `asr.signals`.


class UserError(ValueError):
    """A mistake in a config, a file or a command line.

    The message says what was expected, what was found, where (file, key, line) and what to do. Command lines
    print it without a traceback and exit with `EXIT_USER_ERROR`.
    """


class NonFiniteError(ArithmeticError):
    """A loss or gradient became NaN or infinite; the message names the step."""


class PeerLostError(RuntimeError):
    """Another process of a distributed run is gone, and this one cannot go on without it."""
