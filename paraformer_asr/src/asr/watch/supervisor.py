"""Runs training in a worker thread, so that the main thread can handle signals and detect hangs.

Python delivers a signal between two bytecode instructions of the main thread. If that thread waited minutes for the
compiler or the device, it would notice nothing; here it only polls the signals and the clock.
"""

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from asr.cli import leave_at_once
from asr.distributed import explain_lost_peer
from asr.errors import EXIT_HANG, EXIT_INTERRUPTED, EXIT_PEER_LOST, EXIT_USER_ERROR, UserError
from asr.files import writing_aside
from asr.watch.hook import Hook, StepInfo
from asr.watch.interruption import POLL_S, Interruption, StopRequestedError, Waiting

log = logging.getLogger("asr")

STACKS_NAME = "stacks.txt"

REARM_S, MARGIN_S = 5.0, 60.0
"""A timer outside Python takes over when even the main thread is blocked (something holds the GIL): how often it is
restarted, and how much later than the watchdog it fires, in seconds."""

STOPPED_S = 2.0
"""A wait of POLL_S that took this long: the process was stopped meanwhile, which the watchdog does not count."""


class Supervisor(Hook):
    """Runs a function and ends the process when it must not continue.

    Attributes:
        interruption: the reasons to stop.
        run_dir: that of the run (`RunDir`), once it is known; the stacks of a run that hangs are written there.
    """

    def __init__(
        self,
        interruption: Interruption,
        watchdog_minutes: float = 0.0,
        *,
        guarded: bool = False,
        owns_process: bool = True,
    ):
        """Begin to watch.

        Args:
            interruption: the reasons to stop.
            watchdog_minutes: end the run if nothing completes for this long; 0: never.
            guarded: end the process when its parent is gone.
            owns_process: whether the process exists for this run and may be ended; otherwise an error is raised.
        """
        self.interruption, self.run_dir = interruption, None
        self._limit_s, self._parent = 60 * watchdog_minutes, os.getppid() if guarded else None
        self._owns_process, self._stop_agreed, self._unsaved = owns_process, False, True
        self._waiting = Waiting(lambda: jax.process_count() == 1 and self.urgent())
        self._last_beat = self._last_arming = time.monotonic()

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
        with self._stopped_by_request():
            try:
                while thread.is_alive():
                    before = time.monotonic()
                    thread.join(POLL_S)
                    waited_s = time.monotonic() - before
                    self._last_beat += waited_s if waited_s > STOPPED_S else 0
                    self._look()
            finally:
                if self._limit_s:
                    faulthandler.cancel_dump_traceback_later()
        if isinstance(outcome.get("error"), StopRequestedError):  # the loop handles the later ones
            self._end_unstarted()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]

    def requested(self) -> bool:
        """Return whether this process wants to stop after the step that is under way."""
        return self.interruption.requested()

    def stopping(self) -> bool:
        """Return whether to stop after this step; several processes agree on it, a step late."""
        return self._stop_agreed if jax.process_count() > 1 else self.requested()

    def urgent(self) -> bool:
        """Return whether this process wants to stop immediately, even in an evaluation.

        The end of `max_minutes` is not urgent: an evaluation would have to restart from its beginning.
        """
        return self.interruption.signalled

    def result_of(self, function: Callable, *arguments) -> Any:
        """Return `function(*arguments)`, which may take long, unless the only process wants to stop immediately.

        One of several processes does not stop by itself: its peers would wait for it. They agree at the next step.
        """
        return self._waiting.result_of(function, *arguments)

    def beat(self) -> None:
        """Reset the watchdog: a step, an evaluated batch or a checkpoint is done."""
        self._last_beat = time.monotonic()

    def on_step(self, info: StepInfo) -> None:
        """Reset the watchdog, and note what the processes agreed on."""
        self.beat()
        self._stop_agreed = self._stop_agreed or info.stop

    def explain(self, error: Exception) -> Exception | None:
        """Return the error of a lost peer, if it is one."""
        return explain_lost_peer(error)

    @contextlib.contextmanager
    def nothing_to_save(self) -> Iterator[None]:
        """Let a signal end the process immediately while this context is active."""
        self._unsaved = False
        try:
            yield
        finally:
            self._unsaved = True
            self.beat()

    def _look(self) -> None:
        """End the process where there is a reason."""
        if not self._unsaved and self.interruption.signalled:
            self._end_unstarted()
        if self._parent is not None and os.getppid() != self._parent:
            self._end(EXIT_PEER_LOST, "the process that started this one is gone")
        if self.run_dir is not None and _is_gone(self.run_dir.path):
            message = f"error: the run directory {self.run_dir.path} is gone, nothing can be saved; start again"
            self._end(EXIT_USER_ERROR, message)
        now = time.monotonic()
        if self._limit_s and now - self._last_beat > self._limit_s:
            stacks = self._write_stacks()
            self._end(
                EXIT_HANG,
                f"error: nothing completed in {self._limit_s / 60:g} minutes (training.watchdog_minutes); the stack of "
                f"each thread is in {stacks}; {self._resume_hint()}",
            )
        if self._limit_s and self._owns_process and now - self._last_arming > REARM_S:
            self._last_arming = now
            faulthandler.dump_traceback_later(self._limit_s + MARGIN_S, exit=True, file=sys.__stderr__)

    @contextlib.contextmanager
    def _stopped_by_request(self) -> Iterator[None]:
        """Let Ctrl-Z, or a scheduler that suspends its jobs, also stop the timer outside Python."""
        number = getattr(signal, "SIGTSTP", None)
        if not (self._limit_s and self._owns_process and number and signal.getsignal(number) is signal.SIG_DFL):
            yield
            return

        def stop(*_: Any) -> None:
            faulthandler.cancel_dump_traceback_later()  # its time would go on, and be over when the process continues
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            signal.signal(number, stop)
            self._last_arming = time.monotonic() - REARM_S

        signal.signal(number, stop)
        try:
            yield
        finally:
            signal.signal(number, signal.SIG_DFL)

    def _resume_hint(self) -> str:
        if self.run_dir is None:
            return "there is no run directory yet: start again"
        return f"resume with: {self.run_dir.resume_command}"

    def _write_stacks(self) -> Path | str:
        """Write the stacks of all threads into the run directory; return where they are."""
        if self.run_dir is not None:
            path = self.run_dir.path / STACKS_NAME
            with contextlib.suppress(OSError, UserError), writing_aside(path) as aside:
                with aside.open("w") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
                return path
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        return "the lines above"

    def _end_unstarted(self) -> None:
        self._end(self.interruption.exit_code, f"stopped before the first step of this start; {self._resume_hint()}")

    def _end(self, code: int, message: str) -> None:
        """End the process, or its caller's wait, without waiting for threads that may hang."""
        if not self._owns_process:
            raise KeyboardInterrupt if code == EXIT_INTERRUPTED else UserError(message.removeprefix("error: "))
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
