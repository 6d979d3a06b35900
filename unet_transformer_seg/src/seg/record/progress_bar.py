"""The progress of training in one line: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

PLAIN_INTERVAL_S = 10.0


class ProgressLine:
    """Shows step, loss, images per second and the time left.

    Attributes:
        images_per_s: training speed since the start or the last resume, pauses and the first step (compilation)
            left out; 0 before the second step.

    The time left is that of the training steps; evaluations come on top of it.
    """

    def __init__(self, total_steps: int, start_step: int, images_per_step: int):
        self.total_steps, self.images_per_step = total_steps, images_per_step
        self._live = sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            leave=False,
            dynamic_ncols=True,
            disable=not self._live,
        )
        self._steps, self._busy_s, self._mark, self._last_plain = 0, 0.0, None, time.monotonic()

    def close(self) -> None:
        """Remove the line."""
        self._bar.close()

    @property
    def images_per_s(self) -> float:
        """Training speed."""
        return self.images_per_step * self._steps / self._busy_s if self._busy_s > 0 else 0.0

    def update(self, step: int, loss: float) -> None:
        """Show a completed step."""
        now = time.monotonic()
        if self._mark is not None:
            self._steps += 1
            self._busy_s += now - self._mark
        self._mark = now
        if self._live:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {self.images_per_s:.1f} images/s", refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._steps and now - self._last_plain >= PLAIN_INTERVAL_S:
            self._last_plain = now
            write_above_line(self._plain(step, loss))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the body from the speed."""
        start = time.monotonic()
        yield
        if self._mark is not None:
            self._mark += time.monotonic() - start

    def _plain(self, step: int, loss: float) -> str:
        left = tqdm.format_interval((self.total_steps - step) * self._busy_s / self._steps)
        return f"step {step}/{self.total_steps}  loss {loss:.4f}  {self.images_per_s:.1f} images/s  {left} left"


def write_above_line(text: str) -> None:
    """Print a line of text above the progress bar.

    A closed terminal does not end the training: the log file has the text too.
    """
    with contextlib.suppress(OSError, ValueError):
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
