"""The progress of training in one line: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

PLAIN_INTERVAL_S = 10.0


class ProgressLine:
    """Shows step, loss, speed and the time left.

    What runs in a pause, such as compilation, is left out of the speed and of the time left: evaluations come on top.

    Attributes:
        audio_s_per_s: seconds of sound, padding not counted, trained on in a second, since the start or the last
            resume; 0 before the first step.
    """

    def __init__(self, total_steps: int, start_step: int):
        self.total_steps, self._live = total_steps, sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            leave=False,
            dynamic_ncols=True,
            disable=not self._live,
        )
        self._steps, self._audio_s, self._busy_s = 0, 0.0, 0.0
        self._mark, self._last_plain = time.monotonic(), time.monotonic()

    def close(self) -> None:
        """Remove the line."""
        self._bar.close()

    @property
    def audio_s_per_s(self) -> float:
        """Training speed: so many times faster than the sound is spoken."""
        return self._audio_s / self._busy_s if self._busy_s > 0 else 0.0

    def update(self, step: int, loss: float, audio_s: float) -> None:
        """Show a completed step.

        Args:
            step: number of the update.
            loss: of the step.
            audio_s: seconds of sound in its batch.
        """
        now = time.monotonic()
        self._steps += 1
        self._audio_s += audio_s
        self._busy_s += now - self._mark
        self._mark = now
        if self._live:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {self.audio_s_per_s:.1f} × real time", refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._last_plain >= PLAIN_INTERVAL_S:
            self._last_plain = now
            write_above_line(self._plain(step, loss))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the body from the speed."""
        start = time.monotonic()
        yield
        pause_s = time.monotonic() - start
        self._mark += pause_s
        self._last_plain += pause_s

    def _plain(self, step: int, loss: float) -> str:
        left = tqdm.format_interval((self.total_steps - step) * self._busy_s / self._steps)
        speed = f"{self.audio_s_per_s:.1f} × real time"
        return f"step {step}/{self.total_steps}  loss {loss:.4f}  {speed}  {left} left"


def write_above_line(text: str) -> None:
    """Print a line of text above the progress bar.

    A closed terminal does not end the training: the log file has the text too.
    """
    with contextlib.suppress(OSError, ValueError):
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
