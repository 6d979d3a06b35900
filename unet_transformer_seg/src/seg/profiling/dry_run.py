"""Describes a run without training it: `python -m seg.train --config … --dry-run`."""

import shutil
from pathlib import Path

from seg.checkpoints.arrays import count_bytes, describe_arrays
from seg.checkpoints.store import space_needed
from seg.compiler import plan_memory
from seg.config import Config
from seg.models import count_parameters
from seg.profiling.memory import compile_for, compile_train_step, describe_savings, format_bytes, step_flops
from seg.training.setup import Setup, build_setup
from seg.training.sharding import describe_devices


def describe_run(config: Config) -> str:
    """Return the description. Data sets are opened and the step is compiled; no weight is made, no file written."""
    setup = build_setup(config)
    lines = [*_describe_plan(setup), *_describe_step(setup), *_describe_disk(setup)]
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def _describe_plan(setup: Setup) -> list[tuple[str, str]]:
    config, training = setup.config, setup.config.training
    parameters = setup.abstract_state.params
    size = format_bytes(count_bytes(describe_arrays(parameters)))
    return [
        ("model", f"{config.model.name}, {count_parameters(parameters):,} parameters ({size})"),
        ("data", f"{len(setup.train_set)} training and {len(setup.val_set)} validation samples"),
        ("classes", ", ".join(setup.classes.names)),
        (
            "batch",
            f"{training.batch_size} of {config.data.size[0]} × {config.data.size[1]}, parts {training.accumulate}",
        ),
        ("steps", f"{setup.num_steps}: {training.num_epochs} epochs of {setup.loader.steps_per_epoch}"),
        ("devices", describe_devices(setup.placement)),
    ]


def _describe_step(setup: Setup) -> list[tuple[str, str]]:
    flops = step_flops(setup)
    images = setup.config.training.batch_size
    lines = [("arithmetic", f"{flops / 1e9:.3g} GFLOP a step, {flops / images / 1e9:.3g} an image")]
    need = plan_memory(compile_train_step(setup))
    if need is None:
        return [*lines, ("memory", "not reported by this compiler")]
    parts = f"state and batch {format_bytes(need.arguments)}, activations and gradients {format_bytes(need.workspace)}"
    lines.append(("memory", f"{format_bytes(need.peak)} on each device: {parts}"))
    return lines + [
        ("", f"with {line}")
        for line in describe_savings(setup.config, lambda changed: compile_for(changed, setup.custom))
    ]


def _describe_disk(setup: Setup) -> list[tuple[str, str]]:
    arrays = describe_arrays(setup.abstract_state)
    size, needed = count_bytes(arrays), space_needed(arrays)
    place = _first_existing(Path(setup.config.runs_dir).absolute())
    free = shutil.disk_usage(place).free
    kept = setup.config.training.keep_checkpoints + 1
    return [
        ("checkpoint", f"{format_bytes(size)}, up to {kept} are kept; a save needs {format_bytes(needed)} free"),
        ("disk", f"{format_bytes(free)} free in {setup.config.runs_dir}"),
    ]


def _first_existing(path: Path) -> Path:
    return path if path.exists() else _first_existing(path.parent)
