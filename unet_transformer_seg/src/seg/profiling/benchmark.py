"""Measures the speed of training, prediction and reading.

There are two ways to time a step. Without the input pipeline, each step is awaited before the next one starts. With it,
the loop is that of a run: the metrics of a step are read while the next one runs. It is compared with the same loop on
one batch that is already on the device.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seg.compiler import compile_program, plan_memory
from seg.config import Config, ModelConfig
from seg.data import build_dataset
from seg.data.loader import TrainLoader
from seg.labels import build_labels
from seg.models import build_model, count_parameters, with_explicit_attention
from seg.ops.cpu_conv import for_many_calls
from seg.profiling.flops import count_flops
from seg.profiling.process_memory import forget_peak, peak_bytes, resident_bytes
from seg.training.optimizer import build_optimizer
from seg.training.setup import ON_DEVICE, check_batch_size, jit_steps, with_classes
from seg.training.sharding import Placement, build_placement

PEAK_FLOPS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}
"""Peak dense bfloat16 operations per second, from the data sheets."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The result of one benchmark; times in seconds."""

    mode: str  # "train", "infer" or "input"
    batch: int  # images in a step
    compile_s: float  # time to trace and compile; 0 if nothing is compiled
    step_s: list[float]  # times of the single steps
    # Of one step on all devices: matrix products and convolutions of the model, forward and, in training, backward,
    # without recomputation (remat). None without a model.
    flops: float | None
    parameters: int  # of the model; 0 without one
    # Peak memory in use on one device since the start of the process, if the device reports it
    device_bytes: int | None
    process_bytes: int  # peak resident memory of this process during the steps
    bare_bytes: int = 0  # of "train": resident memory after compilation, before the state exists; else 0
    # Memory of a step on one device as the compiler plans it: arguments, results and temporaries
    planned_bytes: int | None = None
    devices: int = 1  # number of devices
    fed_s: list[float] | None = None  # times of the steps fed by the loader, or None

    def summary(self) -> dict[str, Any]:
        """Return the numbers to report.

        "mfu" is the share of the devices' dense bfloat16 peak that the median step reaches. "fed" holds the times with
        the input pipeline, and the "ratio" of the mean step with it to the mean step without: the mean, because batches
        may come in bursts.
        """
        peak = PEAK_FLOPS.get(jax.local_devices()[0].device_kind)
        times = _describe(self.step_s, self.batch)
        median = times["median_s"]
        fed = _describe(self.fed_s, self.batch) if self.fed_s else None
        return {
            **{name: value for name, value in vars(self).items() if name not in ("step_s", "fed_s")},
            "steps": len(self.step_s),
            **times,
            "images_per_s": self.batch / median,
            "flops_per_s": self.flops / median if self.flops else None,
            "mfu": self.flops / median / peak / self.devices if self.flops and peak else None,
            "fed": fed and fed | {"ratio": fed["mean_s"] / times["mean_s"]},
        }


def _describe(seconds: list[float], batch: int) -> dict[str, float]:
    mean = float(np.mean(seconds))
    return {
        "median_s": float(np.median(seconds)),
        "p95_s": float(np.percentile(seconds, 95)),
        "mean_s": mean,
        "images_per_s": batch / mean,
    }


WARM_UP_STEPS = 3


def measure(config: Config, mode: str, num_steps: int, with_input: bool = False) -> Measurement:
    """Return the times of `num_steps` steps, after a warm-up, at the config's batch size and data size.

    The mode is "train" (the step of a run, repeated on one batch), "infer" (logits of a batch) or "input" (the loader).
    `with_input`, for "train" only, times the loop of a run, first on one batch, then with the loader.
    """
    match mode:
        case "train" if with_input:
            return _measure_fed(config, num_steps)
        case "train":
            trainer = Trainer(config)
            step_s = _time(_awaited(lambda: (trainer.step(trainer.batch), trainer.state)), num_steps)
            return _finish_train(config, trainer, step_s, None)
        case "infer":
            return _measure_infer(config, num_steps)
        case _:
            dataset = build_dataset(config.data, "train", config.seed, config.model.labels)
            batches = TrainLoader(dataset, config.data, config.training.batch_size, config.seed).iterate(0)
            return _finish(config, "input", {"compile_s": 0.0, "step_s": _time(batches, num_steps)}, None, 0, None, 1)


class Trainer:
    """The compiled train step of a config, its state, and a batch of noise on the devices."""

    def __init__(self, config: Config):
        self.placement = _build_placement(config)
        steps = _jit(config, self.placement)
        shapes = steps["abstract_state"]
        self.batch = self.put_batch(_random_batch(config))
        self._healthy = jax.device_put(np.bool_(True), self.placement.replicated)
        self._flag = self.placement.put_flag(False)
        start = time.perf_counter()
        self.program = compile_program(steps["train_step"], shapes, self.batch, self._healthy, self._flag)
        self.compile_s = time.perf_counter() - start
        init = compile_program(steps["init"])
        self.bare_bytes = resident_bytes()
        self.state = init()

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Return the batch on the devices."""
        return self.placement.put_batch({name: batch[name] for name in ON_DEVICE})

    def step(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Take one step; return its metrics, which may not be computed yet."""
        self.state, metrics, self._healthy = self.program(self.state, batch, self._healthy, self._flag)
        return metrics

    def steps_read_late(self, batches: Iterator[dict[str, jax.Array]]) -> Iterator[None]:
        """Take steps as a run does: the metrics of one are read while the next one runs."""
        pending = None
        for batch in batches:
            metrics = self.step(batch)
            if pending is not None:
                jax.device_get(pending)
            pending = metrics
            yield


def _measure_fed(config: Config, num_steps: int) -> Measurement:
    dataset = build_dataset(config.data, "train", config.seed, config.model.labels)
    config = with_classes(config, dataset.classes)
    trainer = Trainer(config)
    step_s = _time(trainer.steps_read_late(itertools.repeat(trainer.batch)), num_steps)
    jax.block_until_ready(trainer.state)
    batches = TrainLoader(dataset, config.data, config.training.batch_size, config.seed).iterate()
    # Prefetched batches must not count: a slow loader would look faster than it is.
    warm_up = WARM_UP_STEPS + config.data.prefetch + config.data.num_threads
    fed_s = _time(trainer.steps_read_late(map(trainer.put_batch, batches)), num_steps, warm_up)
    jax.block_until_ready(trainer.state)
    return _finish_train(config, trainer, step_s, fed_s)


def _finish_train(config: Config, trainer: Trainer, step_s: list[float], fed_s: list[float] | None) -> Measurement:
    parameters, placement = count_parameters(trainer.state.params), trainer.placement
    flops = count_train_flops(config, placement)
    times = {"compile_s": trainer.compile_s, "step_s": step_s, "fed_s": fed_s, "bare_bytes": trainer.bare_bytes}
    return _finish(config, "train", times, flops, parameters, trainer.program, placement.num_devices)


def count_train_flops(config: Config, placement: Placement) -> float:
    """Return the operations of the model in one training step, see `Measurement.flops`."""
    steps = _jit(dataclasses.replace(config, model=plain_model(config.model)), placement)
    batch = jax.eval_shape(lambda: _random_batch(config))
    flags = jax.ShapeDtypeStruct((), jnp.bool_), jax.ShapeDtypeStruct((placement.num_devices,), jnp.int32)
    return count_flops(steps["train_step"], steps["abstract_state"], batch, *flags)


def plain_model(config: ModelConfig) -> ModelConfig:
    """Return the model in the form that is counted: no recomputation, no fused kernel that hides its products."""
    return dataclasses.replace(with_explicit_attention(config), remat=False)


def _jit(config: Config, placement: Placement) -> dict[str, Any]:
    model, optimizer = build_model(config.model), build_optimizer(config.optimizer, 1000)
    labels = build_labels(config, config.model.num_classes)
    return jit_steps(config, model, optimizer, labels.build_loss(config.loss, None), labels, placement)


def _measure_infer(config: Config, num_steps: int) -> Measurement:
    model, placement = build_model(config.model), _build_placement(config)
    noise_bhwc = _random_batch(config)["image"].astype(np.float32) / 255
    image_bhwc = jax.device_put(noise_bhwc, placement.over_devices)
    init = jax.jit(lambda: model.init(jax.random.key(0), noise_bhwc[:1], train=False))
    variables = jax.device_put(init(), placement.replicated)

    def predict(variables: Any, image_bhwc: jax.Array) -> jax.Array:
        return model.apply(variables, image_bhwc, train=False)

    forward = for_many_calls(predict) if config.inference.winograd else predict
    apply = jax.jit(forward, out_shardings=placement.over_devices)
    start = time.perf_counter()
    program = compile_program(apply, variables, image_bhwc)
    compile_s = time.perf_counter() - start
    step_s = _time(_awaited(lambda: program(variables, image_bhwc)), num_steps)
    counted = build_model(plain_model(config.model))
    flops = count_flops(lambda v, x: counted.apply(v, x, train=False), variables, image_bhwc)
    times = {"compile_s": compile_s, "step_s": step_s}
    parameters = count_parameters(variables["params"])
    return _finish(config, "infer", times, flops, parameters, program, placement.num_devices)


def _build_placement(config: Config) -> Placement:
    placement = build_placement(config.mesh)
    check_batch_size(config.training.batch_size, config.training.accumulate, placement.num_devices)
    return placement


def _random_batch(config: Config) -> dict[str, np.ndarray]:
    """Return a batch of noise; some hardware computes zeros faster."""
    rng = np.random.default_rng(0)
    shape = (config.training.batch_size, *config.data.size)
    image = rng.integers(0, 256, (*shape, config.data.channels), np.uint8)
    image = image if config.data.precision == "uint8" else (image / np.float32(255))
    k = config.model.num_classes
    overlapping = config.model.labels == "overlapping"
    label = rng.integers(0, 2, (*shape, k), np.uint8) if overlapping else rng.integers(0, k, shape, np.uint8)
    return {"image": image, "label": label}


def _awaited(step: Callable[[], Any]) -> Iterator[None]:
    """Take steps, awaiting each."""
    while True:
        jax.block_until_ready(step())
        yield


def _time(steps: Iterator[Any], num_steps: int, warm_up: int = WARM_UP_STEPS) -> list[float]:
    """Return the seconds of each of `num_steps` steps, after a warm-up."""
    for _ in range(warm_up):
        next(steps)
    forget_peak()
    marks = [time.perf_counter()]
    for _ in range(num_steps):
        next(steps)
        marks.append(time.perf_counter())
    return np.diff(marks).tolist()


def _finish(
    config: Config, mode: str, times: dict, flops: float | None, parameters: int, program: Any, devices: int
) -> Measurement:
    need = plan_memory(program) if program else None
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return Measurement(
        mode=mode,
        batch=config.training.batch_size,
        flops=flops,
        parameters=parameters,
        device_bytes=max(filter(None, peaks), default=None),
        process_bytes=peak_bytes(),
        planned_bytes=need.peak if need else None,
        devices=devices,
        **times,
    )
