"""A jax profiler trace of a few training steps."""

import logging
from pathlib import Path

import jax

log = logging.getLogger("asr")

WARM_UP_STEPS = 10
"""Steps before the trace: compilation and the filling of the input pipeline would hide the rest."""


class StepTrace:
    """Traces `num_steps` steps after the warm-up and writes a Perfetto file; a context around the loop."""

    def __init__(self, directory: Path, num_steps: int):
        self.directory, self.num_steps = directory, num_steps
        self.running, self.started = False, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()
        if self.num_steps and not self.started:
            log.warning("no profiler trace: it starts after %d steps, and fewer were taken", WARM_UP_STEPS)

    def at_step(self, step: int) -> None:
        """Start or stop the trace; `step` counts from 1 in this process, and is about to be taken."""
        if self.num_steps and step == WARM_UP_STEPS + 1:
            jax.profiler.start_trace(str(self.directory), create_perfetto_trace=True)
            self.running = self.started = True
        elif step == WARM_UP_STEPS + 1 + self.num_steps:
            self._stop()

    def _stop(self) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
            log.info("profiler trace in %s: open perfetto_trace.json.gz at https://ui.perfetto.dev", self.directory)
