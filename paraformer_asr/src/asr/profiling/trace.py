"""A jax profiler trace of a few training steps."""

import logging
import re
from typing import Any

import jax

from asr.distributed import is_main
from asr.files import replace_json
from asr.training.loop import Training
from asr.watch.hook import Hook

log = logging.getLogger("asr")

WARM_UP_STEPS = 10
"""Steps before the trace: compilation and the filling of the input pipeline would hide the rest."""

OPERATIONS_NAME = "operations.json"
_OPERATION = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name="([^"]*)"', re.MULTILINE)


class StepTrace(Hook):
    """Traces `num_steps` steps after the warm-up and writes a Perfetto file.

    The compiler gives its operations names such as `fusion.12`. Which module each comes from is written beside the
    trace: a JSON object from the compiled names to those in the model.
    """

    def __init__(self, num_steps: int):
        self._num_steps, self._step = num_steps, 0
        self._running, self._started = False, False
        self._programs: list[Any] = []

    def on_start(self, training: Training, step: int) -> None:
        """Prepare to trace into the run directory."""
        self._folder, self._train_step = training.run.path / "profile", training.train_step

    def on_batch(self, step: int, batch: dict) -> None:
        """Start or stop the trace before a step; the steps of this process count, from 1."""
        self._step += 1
        program = self._train_step.last  # of the step before
        if self._running and program not in self._programs:
            self._programs.append(program)
        if self._step == WARM_UP_STEPS + 1:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = self._started = True
        elif self._step == WARM_UP_STEPS + 1 + self._num_steps:
            self._stop()

    def on_end(self) -> None:
        """Stop the trace of a run that ends before it is complete."""
        self._stop()
        if not self._started:
            log.warning("no profiler trace: it starts after %d steps, and fewer were made", WARM_UP_STEPS)

    def _stop(self) -> None:
        if not self._running:
            return
        jax.profiler.stop_trace()
        self._running = False
        if is_main():
            replace_json(self._folder / OPERATIONS_NAME, name_operations(self._programs))
        log.info("profiler trace in %s: open perfetto_trace.json.gz at https://ui.perfetto.dev", self._folder)


def name_operations(programs: list[Any]) -> dict[str, str]:
    """Return where the operations of compiled programs come from, such as "jit(train_step)/jvp(UNet)/…/dot_general"."""
    return {name: origin for program in programs for name, origin in _OPERATION.findall(program.as_text())}
