"""Starts of a tiny training in processes of their own: watched through the files they write, and stopped from outside.

The run is as short as a run with every source of state can be: shuffling, augmentation, dropout, running statistics,
moving averages and moments. All starts compile the same program, which they share in a private cache.
"""

import contextlib
import datetime
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

CONFIG = """
name: tiny
model: {name: unet_transformer, base_width: 4, depth: 1, transformer: {num_layers: 1, num_heads: 2, dropout: 0.1}}
data: {size: [32, 32], num_threads: 1, toy: {num_train: 32, num_val: 8}, augment: {flip: 0.5, scale: [0.8, 1.2]}}
training: {batch_size: 8, ema_decay: 0.9, num_sample_pictures: 1, log_every_steps: 1, keep_checkpoints: 2}
"""
HELD = Path(__file__).with_name("held_train.py")
READY = "steps an epoch"
"""Stands in the line of the log after which the program is compiled."""

POLL_S = 0.002
PATIENCE_S = 600


class Start:
    """One process that begins or resumes the run in the folder `runs` of a folder.

    Attributes:
        process: it.
        began: when it was started, on the monotonic clock.
        resumed: whether there was a run to resume.
        step_before: of the newest checkpoint when it was started; 0 if there was none.
    """

    def __init__(self, folder: Path, *settings: str, held: tuple[str, int] | None = None, fresh_cache: bool = False):
        """Start the process.

        Args:
            folder: of the run; what the process prints is kept there.
            settings: further arguments of the command, the same in all starts of a run.
            held: (place, number): wait in this place, see `held_train`.
            fresh_cache: compile anew.
        """
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        config = folder / "tiny.yaml"
        config.write_text(f"{CONFIG}runs_dir: {folder / 'runs'}\n")
        self.folder, self.held_file = folder, folder / "held"
        self.held_file.unlink(missing_ok=True)
        run = run_of(folder)
        self.resumed, self._log_before = run is not None, _size(run / "train.log") if run else 0
        self.step_before = max(saved_steps(folder), default=0)
        number = len(list(folder.glob("output_*.txt")))
        self._output_file = folder / f"output_{number:03d}.txt"
        command = [str(HELD), *map(str, held), str(self.held_file)] if held else ["-m", "seg.train"]
        what = ["--resume", str(run)] if run else ["--config", str(config)]
        cache = folder / f"cache_{number}" if fresh_cache else folder.parent / "cache"
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles in half the time
            "MPLBACKEND": "Agg",
        }
        self.began, self._began_at = time.monotonic(), time.time()
        with self._output_file.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command, *what, *settings], env=environment, stdout=file, stderr=subprocess.STDOUT
            )

    def output(self) -> str:
        """Return what it printed so far."""
        return self._output_file.read_text(errors="replace")

    def log(self) -> str:
        """Return what it wrote into the log of the run so far."""
        run = run_of(self.folder)
        if run is None or not (run / "train.log").exists():
            return ""
        return (run / "train.log").read_bytes()[self._log_before if self.resumed else 0 :].decode(errors="replace")

    def unfinished(self) -> list[str]:
        """Return the names of checkpoints that it is writing or removing, not of what was left by a start before."""
        names = []
        for path in self.folder.glob("runs/*/checkpoints/unfinished_*"):
            with contextlib.suppress(FileNotFoundError):
                names += [path.name] if path.stat().st_ctime >= self._began_at else []
        return sorted(names)

    def seconds_to(self, text: str) -> float | None:
        """Return how long it took to the first line of its log with this text; None without such a line."""
        line = next((line for line in self.log().splitlines() if text in line), None)
        if line is None:
            return None
        moment = datetime.datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f")
        return moment.timestamp() - self._began_at

    def wait_for(self, condition: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
        """Return whether the condition came true before the process ended and the time was over."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if condition():
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(min(POLL_S, left))
        return False

    def sleep(self, seconds: float) -> bool:
        """Wait so long; return whether the process is still there."""
        self.wait_for(lambda: False, seconds)
        return self.process.poll() is None

    def finish(self, seconds: float = PATIENCE_S) -> int:
        """Return the exit code as a shell reports it; a process that takes too long is killed."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return -1
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def fault(self, code: int, expected: int = 0) -> str:
        """Return what is wrong with how it ended, or an empty text."""
        output = self.output()
        if "Traceback" in output:
            return f"printed a traceback, see {self._output_file}: {output.strip()[-300:]}"
        begun = re.search(r"step (\d+) of \d+, \d+ steps an epoch", self.log())
        if begun and int(begun[1]) != self.step_before:
            return f"began at step {begun[1]} although step {self.step_before} was saved, see {self._output_file}"
        if code != expected:
            return f"exit code {code} instead of {expected}, see {self._output_file}: {output.strip()[-300:]}"
        return ""


def run_of(folder: Path) -> Path | None:
    """Return the run directory of a folder: the newest that was made completely, if there is one."""
    complete = sorted(folder.glob("runs/*/environment.json"))
    return complete[-1].parent if complete else None


def phase_of(log: str, unfinished: list[str], steps_saved: Collection[int], evaluated: Collection[int]) -> str:
    """Return what a process was doing.

    Args:
        log: what it wrote into the log.
        unfinished: names of checkpoints that were being written or removed.
        steps_saved: of the checkpoints that were complete.
        evaluated: steps after which the run evaluates.
    """
    if READY not in log:
        return "start-up"
    if unfinished:
        return "save: removing" if all("removal" in name for name in unfinished) else "save: writing"
    lines = re.findall(r"(?:DEBUG step (\d+):|INFO epoch \S+ \(step (\d+)\):)", log)
    if not lines:
        return "compilation"
    stepped, reported = lines[-1]
    if reported:
        return "step" if int(reported) in steps_saved else "save: around"
    return "evaluation" if int(stepped) in evaluated else "step"


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder's run, ascending."""
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("runs/*/checkpoints/step_*"))


def finish_whole(folder: Path, *settings: str) -> Path:
    """Return the directory of a run that nobody interrupted; one that is there already is taken.

    Raises:
        RuntimeError: it does not finish.
    """
    if not (folder / "whole").exists():
        start = Start(folder, *settings)
        if fault := start.fault(start.finish()):
            raise RuntimeError(f"the run that nobody interrupts: {fault}")
        (folder / "whole").touch()
    return run_of(folder)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
