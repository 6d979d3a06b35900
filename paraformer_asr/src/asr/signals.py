"""The signals that end a process by default, and the exit code after each."""

import signal
from collections.abc import Callable

ENDING_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
r"""Ctrl-C; `kill` and schedulers; a closed terminal; Ctrl-\\; and the warnings of SLURM, PBS and LSF before a job ends:
SIGUSR1 and SIGUSR2 if configured, SIGXCPU when the CPU time is used up."""

ENDING = tuple(getattr(signal, name) for name in ENDING_NAMES if hasattr(signal, name))

IMPATIENT = tuple(number for number in ENDING if number.name in ("SIGINT", "SIGTERM", "SIGQUIT"))
"""Signals that a user repeats to stop at once. (The system itself repeats SIGXCPU every second.)"""

EXIT_CODES = (
    "129 a closed terminal (SIGHUP), 130 Ctrl-C, 131 Ctrl-\\, 138 SIGUSR1, 140 SIGUSR2, 143 SIGTERM, 152 SIGXCPU"
)
"""Exit codes for help texts, with the numbers of Linux."""


def exit_code_of(number: int) -> int:
    """Return the exit code of a process that a signal ended, as a shell reports it."""
    return 128 + number


def is_signal_code(code: int | None) -> bool:
    """Return whether an exit code is that of one of the signals."""
    return code in map(exit_code_of, ENDING)


def listen(handler: Callable) -> dict[int, object]:
    """Install `handler` for all ending signals; return the previous handlers, for `restore_handlers`.

    A SIGHUP that was ignored at the start of the process, as under `nohup`, stays ignored.
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
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: installed by C code
