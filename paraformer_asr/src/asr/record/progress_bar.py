"""The progress of training in one line: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

PLAIN_INTERVAL_S = 10.0


class ProgressLine:
    """Shows step, loss, speed and the time left.

    Time in a pause, such as compilation or evaluation, counts neither for the speed nor for the time left.

    Attributes:
        speed: amount trained on per second since the start or the last resume; 0 before the first step.
    """

    def __init__(self, total_steps: int, start_step: int, unit: str):
        """Show a bar from `start_step` on; `unit` is that of the speed, such as "images/s"."""
        self._total_steps, self._unit, self._live = total_steps, unit, sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps, initial=start_step, unit="step", leave=False, dynamic_ncols=True, disable=not self._live
        )
        self._steps, self._amount, self._busy_s = 0, 0.0, 0.0
        self._mark, self._last_plain = time.monotonic(), time.monotonic()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    @property
    def speed(self) -> float:
        """Training speed."""
        return self._amount / self._busy_s if self._busy_s > 0 else 0.0

    def update(self, step: int, loss: float, amount: float) -> None:
        """Show a completed step; `amount` is the number of images, or the seconds of sound, in its batch."""
        now = time.monotonic()
        self._steps += 1
        self._amount += amount
        self._busy_s += now - self._mark
        self._mark = now
        if self._live:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {self.speed:.1f} {self._unit}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._last_plain >= PLAIN_INTERVAL_S:
            self._last_plain = now
            left = tqdm.format_interval((self._total_steps - step) * self._busy_s / self._steps)
            text = f"step {step}/{self._total_steps}  loss {loss:.4f}  {self.speed:.1f} {self._unit}  {left} left"
            write_above_line(text)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the body from the speed."""
        start = time.monotonic()
        yield
        pause_s = time.monotonic() - start
        self._mark += pause_s
        self._last_plain += pause_s


def write_above_line(text: str) -> None:
    """Print a line of text above the progress bar.

    A closed terminal does not end the training: the log file has the text too.
    """
    with contextlib.suppress(OSError, ValueError):
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
