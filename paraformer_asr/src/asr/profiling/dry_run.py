"""Describes a run without training it: `python -m asr.train --config … --dry-run`."""

import shutil
from pathlib import Path

from asr.checkpoints.arrays import count_bytes, describe_arrays
from asr.checkpoints.store import space_needed
from asr.compiler import plan_memory
from asr.config import Config
from asr.models import count_parameters
from asr.profiling.memory import (
    compile_for,
    compile_train_step,
    describe_savings,
    format_bytes,
    largest_shape,
    step_flops,
)
from asr.training.setup import Setup, build_setup
from asr.training.sharding import describe_devices


def describe_run(config: Config) -> str:
    """Return the description. Data sets are opened and the step is compiled; no weight is made, no file written."""
    setup = build_setup(config)
    lines = [*_describe_plan(setup), *_describe_step(setup), *_describe_disk(setup)]
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def _describe_plan(setup: Setup) -> list[tuple[str, str]]:
    config, training, rate_hz = setup.config, setup.config.training, setup.config.features.sample_rate_hz
    parameters = setup.abstract_state.params
    size = format_bytes(count_bytes(describe_arrays(parameters)))
    hours = setup.train_set.durations_s()[setup.loader.kept].sum() / 3600
    shapes = ", ".join(f"{shape.batch_size} × {shape.num_samples / rate_hz:g} s" for shape in setup.loader.plan.shapes)
    data = f"{len(setup.loader.kept)} training utterances ({hours:.2f} hours), {len(setup.val_set)} for validation"
    return [
        ("model", f"{config.model.name}, {count_parameters(parameters):,} parameters ({size})"),
        ("data", data),
        ("tokens", f"{setup.tokenizer.vocab_size}"),
        ("batches", f"{shapes}; parts {training.accumulate}"),
        ("steps", f"{setup.num_steps}: {training.num_epochs} epochs of about {setup.loader.steps_per_epoch}"),
        ("devices", describe_devices(setup.placement)),
    ]


def _describe_step(setup: Setup) -> list[tuple[str, str]]:
    shape = largest_shape(setup)
    flops, rate_hz = step_flops(setup, shape), setup.config.features.sample_rate_hz
    per_second = flops * rate_hz / (shape.batch_size * shape.num_samples)
    text = f"{flops / 1e9:.3g} GFLOP a step with the largest batch, {per_second / 1e9:.3g} a second of sound"
    lines = [("arithmetic", text)]
    need = plan_memory(compile_train_step(setup))
    if need is None:
        return [*lines, ("memory", "not reported by this compiler")]
    parts = f"state and batch {format_bytes(need.arguments)}, activations and gradients {format_bytes(need.workspace)}"
    lines.append(("memory", f"{format_bytes(need.peak)} on each device: {parts}"))
    savings = describe_savings(setup.config, lambda changed: compile_for(changed, setup.custom))
    return lines + [("", f"with {line}") for line in savings]


def _describe_disk(setup: Setup) -> list[tuple[str, str]]:
    arrays = describe_arrays(setup.abstract_state)
    size, needed = count_bytes(arrays), space_needed(arrays)
    place = _first_existing(Path(setup.config.runs_dir).absolute())
    free = shutil.disk_usage(place).free
    kept = setup.config.training.keep_checkpoints + setup.config.training.keep_best
    room = f"{format_bytes(size)}, up to {kept} are kept; a save needs {format_bytes(needed)} free"
    return [("checkpoint", room), ("disk", f"{format_bytes(free)} free in {setup.config.runs_dir}")]


def _first_existing(path: Path) -> Path:
    return path if path.exists() else _first_existing(path.parent)
