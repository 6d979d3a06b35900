"""Measures how fast a model trains and predicts, and how fast samples are read."""

import dataclasses
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seg.config import Config
from seg.data import build_dataset, make_augment
from seg.data.loader import TrainLoader
from seg.losses import build_loss
from seg.models import build_model, count_parameters
from seg.training.frozen import FrozenParts
from seg.training.guard import make_guarded_step
from seg.training.optimizer import build_optimizer
from seg.training.state import TrainState, init_state
from seg.training.step import make_train_step

PEAK_FLOPS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}
"""Dense bfloat16 operations per second by the data sheet; of the model, not of the compiler."""

WARM_UP_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one benchmark found; times in seconds.

    Attributes:
        mode: "train", "infer" or "input".
        batch: images in a step.
        compile_s: time of the first call, 0 where nothing is compiled.
        step_s: times of the single steps.
        flops: operations of one step as the compiler counts them, or None.
        parameters: of the model, 0 where there is none.
        device_bytes: largest memory in use on the device, where the device tells.
        process_bytes: largest resident memory of this process so far.
    """

    mode: str
    batch: int
    compile_s: float
    step_s: list[float]
    flops: float | None
    parameters: int
    device_bytes: int | None
    process_bytes: int

    def summary(self) -> dict[str, Any]:
        """Return the numbers to report."""
        median, p95 = float(np.median(self.step_s)), float(np.percentile(self.step_s, 95))
        peak = PEAK_FLOPS.get(jax.local_devices()[0].device_kind)
        return {
            "mode": self.mode,
            "batch": self.batch,
            "steps": len(self.step_s),
            "parameters": self.parameters,
            "compile_s": self.compile_s,
            "median_s": median,
            "p95_s": p95,
            "images_per_s": self.batch / median,
            "flops": self.flops,
            "flops_per_s": self.flops / median if self.flops else None,
            "mfu": self.flops / median / peak if self.flops and peak else None,
            "device_bytes": self.device_bytes,
            "process_bytes": self.process_bytes,
        }


def measure(config: Config, mode: str, num_steps: int) -> Measurement:
    """Return the times of `num_steps` steps at the config's batch size and data size.

    Args:
        config: `model.num_classes` set.
        mode: "train" (the step of a run, on one batch again and again), "infer" (logits of a batch) or "input"
            (the loader alone).
        num_steps: steps that count, after the warm-up.
    """
    match mode:
        case "train":
            return _measure_train(config, num_steps)
        case "infer":
            return _measure_infer(config, num_steps)
        case _:
            return _measure_input(config, num_steps)


def _measure_train(config: Config, num_steps: int) -> Measurement:
    model = build_model(config.model)
    optimizer = build_optimizer(config.optimizer, 1000)
    freeze = config.optimizer.freeze
    plain_step = make_train_step(
        FrozenParts(model, freeze) if freeze else model,
        optimizer,
        build_loss(config.loss, None),
        make_augment(config.data),
        seed=config.seed,
        accumulate=config.training.accumulate,
        ema_decay=config.training.ema_decay,
    )
    step = make_guarded_step(plain_step, config.training.on_non_finite)
    with_ema = config.training.ema_decay > 0
    state = jax.jit(lambda: init_state(model, config.model, optimizer, jax.random.key(0), with_ema))()
    batch, flags = _random_batch(config), (jnp.bool_(True), jnp.zeros(1, jnp.int32))
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch, *flags).compile()
    compile_s = time.perf_counter() - start

    def steps(state: TrainState) -> Iterator[None]:
        while True:
            state, metrics, _ = compiled(state, batch, *flags)
            jax.block_until_ready((state, metrics))
            yield

    parameters = count_parameters(state.params)
    return _finish(config, "train", compile_s, _time(steps(state), num_steps), _flops(compiled), parameters)


def _measure_infer(config: Config, num_steps: int) -> Measurement:
    model = build_model(config.model)
    image_bhwc = _random_batch(config)["image"].astype(jnp.float32) / 255
    variables = jax.jit(lambda: model.init(jax.random.key(0), image_bhwc[:1], train=False))()
    start = time.perf_counter()
    compiled = jax.jit(lambda v, x: model.apply(v, x, train=False)).lower(variables, image_bhwc).compile()
    compile_s = time.perf_counter() - start

    def steps() -> Iterator[None]:
        while True:
            jax.block_until_ready(compiled(variables, image_bhwc))
            yield

    parameters = count_parameters(variables["params"])
    return _finish(config, "infer", compile_s, _time(steps(), num_steps), _flops(compiled), parameters)


def _measure_input(config: Config, num_steps: int) -> Measurement:
    dataset = build_dataset(config.data, "train", config.seed)
    batches = TrainLoader(dataset, config.data, config.training.batch_size, config.seed).iterate(0)
    return _finish(config, "input", 0.0, _time(batches, num_steps), None, 0)


def _random_batch(config: Config) -> dict[str, jax.Array]:
    """Return a batch of noise; zeros would be too easy for some hardware."""
    rng = np.random.default_rng(0)
    shape = (config.training.batch_size, *config.data.size)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    return jax.device_put({"image": image, "label": rng.integers(0, config.model.num_classes, shape, np.uint8)})


def _time(steps: Iterator[Any], num_steps: int) -> list[float]:
    """Return the seconds that each of `num_steps` steps takes, after a warm-up."""
    for _ in range(WARM_UP_STEPS):
        next(steps)
    marks = [time.perf_counter()]
    for _ in range(num_steps):
        next(steps)
        marks.append(time.perf_counter())
    return np.diff(marks).tolist()


def _flops(compiled: Callable) -> float | None:
    cost = compiled.cost_analysis()
    return float(cost["flops"]) if cost and cost.get("flops", 0) > 0 else None


def _finish(
    config: Config, mode: str, compile_s: float, step_s: list[float], flops: float | None, parameters: int
) -> Measurement:
    statistics = jax.local_devices()[0].memory_stats() or {}
    return Measurement(
        mode=mode,
        batch=config.training.batch_size,
        compile_s=compile_s,
        step_s=step_s,
        flops=flops,
        parameters=parameters,
        device_bytes=statistics.get("peak_bytes_in_use"),
        process_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
