"""What a run costs on this machine, measured by a few real steps; and the largest run that fits a time."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import jax

from seg.compiler import plan_memory
from seg.config import Config
from seg.data.fit import window_for
from seg.errors import UserError
from seg.inference.tiling import place_windows
from seg.models import count_parameters
from seg.planning.proposal import Length, Shape, choose_shape, with_side
from seg.planning.survey import Facts
from seg.profiling.benchmark import Trainer
from seg.profiling.memory import format_bytes

T = TypeVar("T")

WIDTHS = (64, 48, 32, 24, 16)  # of the first stage; the widest that fits is taken
DEFAULT_WIDTH = 32  # without a time: nnU-Net's
SMALLER_SIDES = (192, 128)  # sides of a patch that are tried where whole images take too long
NARROW_WIDTHS = (12, 8)  # the last resort
ENOUGH_STEPS = 600  # updates that a small data set needs before a wider network pays
DEFAULT_STEPS = 10_000  # updates without a time
MIN_EPOCHS, MAX_EPOCHS = 1, 1000
GROWTH = 1.6  # exponent of the width in the time of a step: between that of few channels and that of many
MEASURED_STEPS = 2
EFFICIENCY = 0.75  # share of the cores that a step keeps busy, at least
MEMORY_SHARE = 0.7  # share of the free memory that a step may take
MAX_EVALUATIONS = 5  # in a run
EVALUATION_SHARE = 0.15  # share of the time that evaluations take, unless the last one alone takes more
SPARE = 0.85  # share of the time that is planned; the rest is for start, checkpoints and pictures


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a run."""

    step_s: float  # of one update
    compile_s: float  # of the programs
    evaluation_s: float  # of one evaluation
    parameters: int  # of the network
    memory: int | None  # bytes that a step needs, if the compiler knows

    def seconds(self, steps: int, evaluations: int) -> float:
        """Return the time of a run of so many updates and evaluations."""
        return self.compile_s + steps * self.step_s + evaluations * self.evaluation_s

    def evaluations_within(self, seconds: float) -> int:
        """Return how many evaluations a run of this time has, at least the last."""
        return max(1, min(MAX_EVALUATIONS, int(EVALUATION_SHARE * seconds / max(self.evaluation_s, 1e-9))))


def measure_cost(config: Config, facts: Facts, shape: Shape) -> Cost:
    """Return the cost of a run, by compiling its step and taking a few on noise."""
    trainer, compile_s = _unshared(lambda: Trainer(config), 1)
    need = plan_memory(trainer.program)
    jax.block_until_ready(trainer.step(trainer.batch))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def step() -> None:
        jax.block_until_ready((trainer.step(trainer.batch), trainer.state))

    step_s = min(_unshared(step, cores)[1] for _ in range(MEASURED_STEPS))
    # A forward pass is a third of a step.
    window_s = step_s / shape.batch_size / 3
    windows = facts.num_val * _windows_per_image(config, facts)
    parameters = count_parameters(trainer.state.params)
    return Cost(step_s, 1.5 * compile_s, window_s * windows, parameters, need.peak if need else None)


def _unshared(work: Callable[[], T], cores: int) -> tuple[T, float]:
    """Return the result of some work and its seconds, as on a machine that no other program uses."""
    start, processor = time.perf_counter(), time.process_time()
    result = work()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    # Where other programs take the cores, the time on the clock says nothing about the network.
    on_cpu = jax.default_backend() == "cpu"
    return result, min(seconds, processor / cores / EFFICIENCY) if on_cpu else seconds


def _windows_per_image(config: Config, facts: Facts) -> float:
    """Return the mean number of windows that cover an image."""
    numbers = []
    for height, width in facts.sizes_n2.tolist():
        tile = window_for((height, width), config)
        sides = zip((height, width), tile, strict=True)
        rows, columns = (len(place_windows(max(n, m), m, config.inference.overlap)) for n, m in sides)
        numbers.append(rows * columns)
    return sum(numbers) / len(numbers)


def in_minutes(number: float) -> str:
    """Return "1 minute", "2.5 minutes"."""
    return f"{number:g} minute{'s' * (number != 1)}"


def fit_time(
    facts: Facts, minutes: float, build: Callable[[Shape], Config], note: Callable[[str], object]
) -> tuple[Shape, Cost, Length]:
    """Return the shape with the widest network that takes `ENOUGH_STEPS` updates in the time, its cost, and the length.

    Args:
        facts: of the data.
        minutes: length of a run.
        build: returns the config of a run with such a step.
        note: called with each measurement, in words.
    """
    seconds = 60 * minutes * SPARE
    ladder = make_ladder(facts)
    probe = ladder[-1]
    cost = _noted(measure_cost(build(probe), facts, probe), probe, note)
    chosen = _first_fitting(ladder, probe, cost, seconds)
    while chosen != probe:
        # Measured, as the time of a step is no simple function of the width; a slower one than expected steps down.
        cost, probe = _noted(measure_cost(build(chosen), facts, chosen), chosen, note), chosen
        smaller = ladder[ladder.index(chosen) + 1 :]
        if cost.seconds(ENOUGH_STEPS, cost.evaluations_within(seconds)) > seconds * 1.1 and smaller:
            chosen = _first_fitting(smaller, probe, cost, seconds)
    steps_per_epoch = -(-facts.num_train // chosen.batch_size)
    evaluations = cost.evaluations_within(seconds)
    epochs = int((seconds - cost.seconds(0, evaluations)) / cost.step_s / steps_per_epoch)
    epochs = max(MIN_EPOCHS, min(epochs, MAX_EPOCHS))
    return chosen, cost, Length(epochs, min(evaluations, epochs), f"what fits into {in_minutes(minutes)}")


def make_ladder(facts: Facts) -> list[Shape]:
    """Return the shapes that are tried, the most able first: narrower, then smaller patches, then narrower still."""
    whole = choose_shape(facts, 1)
    shapes = [dataclasses.replace(whole, base_width=width) for width in WIDTHS]
    shapes += [with_side(whole, side, WIDTHS[-1]) for side in SMALLER_SIDES]
    shapes += [with_side(whole, SMALLER_SIDES[-1], width) for width in NARROW_WIDTHS]
    return list(dict.fromkeys(shapes))


def _first_fitting(ladder: Sequence[Shape], probe: Shape, cost: Cost, seconds: float) -> Shape:
    """Return the first shape whose updates are expected to fit, else the last."""
    for shape in ladder:
        factor = _work(shape) / _work(probe)
        scaled = dataclasses.replace(cost, step_s=cost.step_s * factor, evaluation_s=cost.evaluation_s * factor)
        if scaled.seconds(ENOUGH_STEPS, scaled.evaluations_within(seconds)) <= seconds:
            return shape
    return ladder[-1]


def _work(shape: Shape) -> float:
    """Return the relative time of a step."""
    pixels = shape.side[0] * shape.side[1] * shape.batch_size
    return pixels * shape.base_width**GROWTH


def _noted(cost: Cost, shape: Shape, note: Callable[[str], object]) -> Cost:
    size = f"{shape.side[0]}×{shape.side[1]}"
    note(f"measured: width {shape.base_width}, {shape.batch_size} of {size}: {cost.step_s:.2f} s a step")
    return cost


def fit_memory(shape: Shape, cost: Cost) -> Shape:
    """Return the shape with as many patches in a batch as the free memory holds, at least two.

    Raises:
        UserError: two do not fit.
    """
    free = free_memory()
    if cost.memory is None or free is None or cost.memory <= MEMORY_SHARE * free:
        return shape
    batch = int(shape.batch_size * MEMORY_SHARE * free / cost.memory)
    if batch < 2:
        raise UserError(
            f"a step of {shape.batch_size} patches of {shape.side[0]}×{shape.side[1]} needs "
            f"{format_bytes(cost.memory)}, and {format_bytes(free)} are free; close other programs, or plan for less "
            "with --minutes"
        )
    return dataclasses.replace(shape, batch_size=batch)


def free_memory() -> int | None:
    """Return the free bytes of the device, or of the machine where it has none of its own."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
