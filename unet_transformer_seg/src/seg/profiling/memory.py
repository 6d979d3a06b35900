"""Memory and operations of a step, known without running it: for `--dry-run`, and when memory runs out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from seg.compiler import compile_program, plan_memory
from seg.config import Config
from seg.custom import CustomParts
from seg.errors import UserError
from seg.profiling.flops import count_flops
from seg.training.loop import Training
from seg.training.setup import Setup, build_setup
from seg.watch.hook import Hook


def compile_train_step(setup: Setup) -> Any:
    """Return the compiled train step for the shapes of the run; no array is made."""
    return compile_program(setup.train_step, *abstract_arguments(setup))


def abstract_arguments(setup: Setup) -> tuple:
    """Return the arguments of the train step as shapes with their placement."""
    data, config = setup.config.data, setup.config.training
    size, image = data.size, (config.batch_size, *data.size, data.channels)
    layers = (len(setup.classes),) if setup.classes.overlapping else ()
    over, everywhere = setup.placement.over_devices, setup.placement.replicated
    batch = {
        "image": jax.ShapeDtypeStruct(image, data.precision, sharding=over),
        "label": jax.ShapeDtypeStruct((config.batch_size, *size, *layers), "uint8", sharding=over),
    }
    healthy = jax.ShapeDtypeStruct((), "bool", sharding=everywhere)
    stop_d = jax.ShapeDtypeStruct((setup.placement.num_devices,), "int32", sharding=over)
    return setup.abstract_state, batch, healthy, stop_d


def step_flops(setup: Setup) -> float:
    """Return the floating-point operations of one step: matrix products and convolutions."""
    return count_flops(setup.train_step, *abstract_arguments(setup))


def savings(config: Config) -> dict[str, Config]:
    """Return change → config that needs less memory for the same batch."""
    model, training = config.model, config.training
    with_remat = dataclasses.replace(config, model=dataclasses.replace(model, remat=True))
    can_remat = not model.remat and model.name != "custom"
    changed = {"model.remat=true": with_remat} if can_remat else {}
    if training.batch_size % (2 * training.accumulate) == 0:
        parts = 2 * training.accumulate
        halved = dataclasses.replace(training, accumulate=parts)
        changed[f"training.accumulate={parts}"] = dataclasses.replace(config, training=halved)
        if can_remat:
            changed[f"model.remat=true training.accumulate={parts}"] = dataclasses.replace(with_remat, training=halved)
    return changed


def describe_savings(config: Config, compile_step: Callable[[Config], Any]) -> list[str]:
    """Return a line per change that saves memory, with what the step would need."""
    lines = []
    for change, changed in savings(config).items():
        need = plan_memory(compile_step(changed))
        if need:
            lines.append(f"{change}: {format_bytes(need.peak)}")
    return lines


def compile_for(config: Config, custom: CustomParts) -> Any:
    """Return the compiled train step of another config, with the same parts from outside the package."""
    return compile_train_step(build_setup(config, custom=custom, is_settled=True))


class MemoryAdvisor(Hook):
    """Explains what a run that ran out of memory needs, and what would need less."""

    def on_start(self, training: Training, step: int) -> None:
        """Remember what runs."""
        self._training = training

    def explain(self, error: Exception) -> Exception | None:
        """Return the explanation, if memory was refused."""
        if not is_out_of_memory(error):
            return None
        return UserError(explain_out_of_memory(self._training.setup, self._training.train_step.last))


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error is a refused allocation."""
    text = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text


def explain_out_of_memory(setup: Setup, program: Any) -> str:
    """Return what the step needs, and which changes need less; `program` is None when the step was not compiled yet."""
    config, need = setup.config, plan_memory(program) if program else None
    lines = [
        f"out of memory: training.batch_size {config.training.batch_size} in {config.training.accumulate} part(s) of "
        f"{config.data.size[0]} × {config.data.size[1]} pixels on {setup.placement.num_devices} device(s)"
        + (f"; the step needs {format_bytes(need.peak)} on each device" if need else "")
    ]
    lines += [f"  with {line}" for line in describe_savings(config, lambda changed: compile_for(changed, setup.custom))]
    lines.append("  or, in a new run, with a smaller training.batch_size")
    return "\n".join(lines)


def format_bytes(size: float) -> str:
    """Return a number of bytes in GB, MB or kB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size / 1e3:.1f} kB"
