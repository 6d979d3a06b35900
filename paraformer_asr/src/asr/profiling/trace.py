"""A jax profiler trace of a few training steps."""

import logging
import re
from pathlib import Path
from typing import Any

import jax

from asr.files import replace_json

log = logging.getLogger("asr")

WARM_UP_STEPS = 10
"""Steps before the trace: compilation and the filling of the input pipeline would hide the rest."""

OPERATIONS_NAME = "operations.json"
_OPERATION = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name="([^"]*)"', re.MULTILINE)


class StepTrace:
    """Traces `num_steps` steps after the warm-up and writes a Perfetto file; a context around the loop.

    The compiler gives its operations names such as `fusion.12`. Which module each comes from is written beside the
    trace: a JSON object from the compiled names to those in the model.
    """

    def __init__(self, directory: Path, num_steps: int):
        self.directory, self.num_steps = directory, num_steps
        self.running, self.started = False, False
        self._programs: list[Any] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()
        if self.num_steps and not self.started:
            log.warning("no profiler trace: it starts after %d steps, and fewer were taken", WARM_UP_STEPS)

    def at_step(self, step: int, program: Any = None) -> None:
        """Start or stop the trace; `step` counts from 1 in this process, and is about to be taken.

        Args:
            step: number.
            program: compiled, that took the step before.
        """
        if self.running and program is not None and program not in self._programs:
            self._programs.append(program)
        if self.num_steps and step == WARM_UP_STEPS + 1:
            jax.profiler.start_trace(str(self.directory), create_perfetto_trace=True)
            self.running = self.started = True
        elif step == WARM_UP_STEPS + 1 + self.num_steps:
            self._stop()

    def _stop(self) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
            if jax.process_index() == 0:
                replace_json(self.directory / OPERATIONS_NAME, name_operations(self._programs))
            log.info("profiler trace in %s: open perfetto_trace.json.gz at https://ui.perfetto.dev", self.directory)


def name_operations(programs: list[Any]) -> dict[str, str]:
    """Return where the operations of compiled programs come from, such as "jit(train_step)/jvp(UNet)/…/dot_general"."""
    return {name: origin for program in programs for name, origin in _OPERATION.findall(program.as_text())}
