"""The signals that ordinarily end a process, whoever sends them, and the exit code after each."""

import signal
from collections.abc import Callable

ENDING_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
r"""Ctrl-C; `kill` and schedulers; a terminal that is closed; Ctrl-\\; and what SLURM, PBS and LSF send some time before
the end of a job: SIGUSR1 and SIGUSR2 as they are told to, SIGXCPU when the processor time is used up."""

ENDING = tuple(getattr(signal, name) for name in ENDING_NAMES if hasattr(signal, name))

IMPATIENT = tuple(number for number in ENDING if number.name in ("SIGINT", "SIGTERM", "SIGQUIT"))
"""Those that somebody sends a second time to wait no longer. (The system repeats SIGXCPU every second.)"""

EXIT_CODES = (
    "129 a closed terminal (SIGHUP), 130 Ctrl-C, 131 Ctrl-\\, 138 SIGUSR1, 140 SIGUSR2, 143 SIGTERM, 152 SIGXCPU"
)
"""For the help texts. The numbers are those of Linux."""


def exit_code_of(number: int) -> int:
    """Return the code of a process that a signal ended, as a shell gives it."""
    return 128 + number


def is_signal_code(code: int | None) -> bool:
    """Return whether an exit code says that one of the signals came."""
    return code in map(exit_code_of, ENDING)


def listen(handler: Callable) -> dict[int, object]:
    """Make `handler` the handler of all ending signals; return the handlers before, for `restore_handlers`.

    A SIGHUP that was ignored when the process started, as `nohup` does, stays ignored.
    """
    previous = {}
    for number in ENDING:
        if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
            continue
        previous[number] = signal.signal(number, handler)
    return previous


def restore_handlers(previous: dict[int, object]) -> None:
    """Undo `listen`."""
    for number, handler in previous.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: one that C installed
