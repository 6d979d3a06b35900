"""Watches over a run from the main thread, while the run itself has a thread of its own.

Signals reach Python only between two of its instructions, in the main thread; one that waits for the compiler or the
device for minutes hears nothing. Here the main thread does nothing but look: at the signals, and at the clock.
"""

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from seg.cli import leave_at_once
from seg.errors import EXIT_HANG, EXIT_PEER_LOST, EXIT_USER_ERROR, UserError
from seg.files import writing_aside
from seg.watch.interruption import POLL_S, Interruption, Waiting

log = logging.getLogger("seg")

STACKS_NAME = "stacks.txt"

REARM_S, MARGIN_S = 5.0, 60.0
"""If even the main thread cannot run, because something holds Python's lock, a timer outside of Python takes over."""


class Supervisor:
    """Runs a function and ends the process when it must not go on.

    Attributes:
        interruption: the reasons to stop.
        run_path: directory of the run, once it is known; the stacks of a run that hangs are written there.
    """

    def __init__(self, interruption: Interruption, watchdog_minutes: float = 0.0, guarded: bool = False):
        """Begin to watch.

        Args:
            interruption: the reasons to stop.
            watchdog_minutes: so long nothing may be completed; 0: for ever.
            guarded: whether the process that started this one must outlive it.
        """
        self.interruption, self.run_path = interruption, None
        self._limit_s, self._parent = 60 * watchdog_minutes, os.getppid() if guarded else None
        self._waiting = Waiting(lambda: jax.process_count() == 1 and self.urgent())
        self._last_beat = self._last_arming = time.monotonic()
        self._unsaved = True

    def run(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, called in a thread of its own, or raise what it raises."""
        outcome = {}

        def call() -> None:
            try:
                outcome["result"] = work()
            except BaseException as error:
                outcome["error"] = error

        thread = threading.Thread(target=call, name="run", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(POLL_S)
                self._look()
        finally:
            if self._limit_s:
                faulthandler.cancel_dump_traceback_later()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]

    def requested(self) -> bool:
        """Return whether this process wants to stop after the step that is under way."""
        return self.interruption.requested()

    def urgent(self) -> bool:
        """Return whether it wants to stop at once, even in an evaluation.

        When the time of the run is up it does not: what was begun would have to be done again from its start.
        """
        return self.interruption.signalled

    def result_of(self, function: Callable, *arguments) -> Any:
        """Return `function(*arguments)`, which may take long.

        A process of several does not stop by itself: the others would wait for it. They agree at the next step.

        Raises:
            StopRequestedError: this process, the only one, wants to stop at once.
        """
        return self._waiting.result_of(function, *arguments)

    def beat(self) -> None:
        """Say that the run is alive: a step, an evaluated batch or a checkpoint is done."""
        self._last_beat = time.monotonic()

    @contextlib.contextmanager
    def nothing_to_save(self) -> Iterator[None]:
        """Say that a signal may end the process at once in the body: no step was made that is not saved."""
        self._unsaved = False
        try:
            yield
        finally:
            self._unsaved = True
            self.beat()

    def _look(self) -> None:
        """End the process where there is a reason."""
        if not self._unsaved and self.interruption.signalled:
            self._exit(self.interruption.exit_code, f"stopped before the first step of this start; {self._way_on()}")
        if self._parent is not None and os.getppid() != self._parent:
            self._exit(EXIT_PEER_LOST, "the process that started this one is gone")
        if self.run_path is not None and _is_gone(self.run_path):
            message = f"error: the run directory {self.run_path} is gone, so that nothing can be saved; start again"
            self._exit(EXIT_USER_ERROR, message)
        now = time.monotonic()
        if self._limit_s and now - self._last_beat > self._limit_s:
            stacks = self._write_stacks()
            self._exit(
                EXIT_HANG,
                f"error: nothing was completed in {self._limit_s / 60:g} minutes (training.watchdog_minutes); "
                f"where each thread stands is in {stacks}; {self._way_on()}",
            )
        if self._limit_s and now - self._last_arming > REARM_S:
            self._last_arming = now
            faulthandler.dump_traceback_later(self._limit_s + MARGIN_S, exit=True, file=sys.__stderr__)

    def _way_on(self) -> str:
        if self.run_path is None:
            return "no run directory was made yet: start again"
        return f"go on with: python -m seg.train --resume {self.run_path}"

    def _write_stacks(self) -> Path | str:
        """Write the stacks of all threads into the run directory; return where they are."""
        if self.run_path is not None:
            with contextlib.suppress(OSError, UserError), writing_aside(self.run_path / STACKS_NAME) as aside:
                with aside.open("w") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
                return self.run_path / STACKS_NAME
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        return "the lines above"

    def _exit(self, code: int, message: str) -> None:
        """End the process without waiting for threads that may hang."""
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            log.info("%s", message)
            if not log.handlers:
                print(message, file=sys.stderr)
        leave_at_once(code)


def _is_gone(folder: Path) -> bool:
    """Return whether a folder was removed or renamed; a disk that does not answer just now has not lost it."""
    try:
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
