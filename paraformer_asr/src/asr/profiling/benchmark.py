"""Measures the speed of training, transcription, feature extraction and reading.

The operations of a step are its matrix products and convolutions, as `asr.profiling.flops` counts them, without
recomputation. The share of the hardware's peak (MFU) follows from them.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from asr.compiler import compile_program
from asr.config import Config
from asr.data import build_dataset
from asr.data.frontend import Cmvn, make_frontend
from asr.data.loader import Batch, TrainLoader
from asr.data.text.building import choose_tokenizer
from asr.decode.greedy import greedy
from asr.errors import UserError
from asr.models import build_model, count_parameters
from asr.profiling.flops import count_flops
from asr.profiling.measurement import BatchSize, Measurement, memory_in_use, planned_bytes
from asr.profiling.process_memory import forget_peak
from asr.training.optimizer import build_optimizer
from asr.training.setup import ON_DEVICE, jit_steps
from asr.training.sharding import build_placement
from asr.training.state import init_state

WARM_UP_STEPS = 3


def measure(config: Config, size: BatchSize, mode: str, num_steps: int, with_input: bool = False) -> Measurement:
    """Return the times of `num_steps` steps.

    Args:
        config: `model.vocab_size` set, unless the mode is "input" or "frontend".
        size: of a batch; ignored if batches are read.
        mode: "train" (the step of a run with the front end, repeated on one batch), "infer" (from sound to tokens),
            "frontend" (from sound to features) or "input" (the loader).
        num_steps: steps that count, after the warm-up.
        with_input: "train" only: take batches from the loader, as in a run, and compare with batches on the devices.
    """
    model = dataclasses.replace(config.model, input_dim=config.features.input_dim)
    config = dataclasses.replace(config, model=model)
    match mode:
        case "train" if with_input:
            return _measure_train_with_input(config, num_steps)
        case "train":
            return _measure_train(config, size, num_steps)
        case "infer":
            return _measure_infer(config, size, num_steps)
        case "frontend":
            return _measure_frontend(config, size, num_steps)
        case _:
            return _measure_input(config, num_steps)


class _Training:
    """The jitted train step of a config, and its state."""

    def __init__(self, config: Config):
        self._config = config
        self.placement = build_placement(config.mesh)
        self._jitted = self._jit(config)
        self._plain = self._jit(_plain(config))
        flag = jax.device_put(np.bool_(True), self.placement.replicated)
        self._flags = flag, self.placement.put_flag(False)
        self.state = self._jitted["init"]()

    def _jit(self, config: Config) -> dict[str, Any]:
        optimizer = build_optimizer(config.optimizer, 1000)
        return jit_steps(config, build_model(config.model), optimizer, _no_change(config), self.placement)

    def put(self, batch: Batch) -> dict[str, jax.Array]:
        """Return the batch on the devices."""
        return self.placement.put_batch({name: batch[name] for name in ON_DEVICE})

    def compile(self, batch: dict[str, jax.Array]) -> tuple[Callable, float]:
        """Return the step compiled for a batch of this shape, and the seconds of compilation."""
        return _compile(self._jitted["train_step"], self.state, batch, *self._flags)

    def run(self, step: Callable, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Start a compiled step and return its metrics without awaiting them."""
        self.state, metrics, _ = step(self.state, batch, *self._flags)
        return metrics

    def flops(self, batch: dict[str, jax.Array]) -> float:
        """Return the operations of a step with a batch of this shape."""
        return count_flops(self._plain["train_step"], jax.eval_shape(self._plain["init"]), batch, *self._flags)


def _measure_train(config: Config, size: BatchSize, num_steps: int) -> Measurement:
    training = _Training(config)
    num_devices, parts = training.placement.num_devices, config.training.accumulate
    if size.utterances % (num_devices * parts):
        raise UserError(
            f"--batch {size.utterances}: expected a multiple of the number of devices, {num_devices}, times "
            f"training.accumulate, {parts}"
        )
    batch = training.put(_random_batch(config, size))
    step, compile_s = training.compile(batch)

    step_s = _time(_awaited(lambda: (training.run(step, batch), training.state)), num_steps)
    facts = {"flops": training.flops(batch), "num_devices": num_devices, "planned_bytes": planned_bytes(step)}
    return _finish("train", size.totals, compile_s, step_s, training.state.params, **facts)


def _measure_train_with_input(config: Config, num_steps: int) -> Measurement:
    """Time steps on batches from the loader, then the same steps on batches already on the devices."""
    dataset = build_dataset(config, "train")
    tokenizer = choose_tokenizer(config, dataset.texts())
    model = dataclasses.replace(config.model, vocab_size=max(config.model.vocab_size, tokenizer.vocab_size))
    config = dataclasses.replace(config, model=model)
    training = _Training(config)
    num_devices, rate_hz = training.placement.num_devices, config.features.sample_rate_hz
    loader = TrainLoader(dataset, tokenizer, config, num_devices)
    steps, flops, resident, compile_s = {}, {}, {}, 0.0
    for shape in loader.plan.shapes:  # all shapes, so that no step is compiled while timing
        size = BatchSize(shape.batch_size, shape.num_samples / rate_hz, shape.num_tokens)
        batch = training.put(_random_batch(config, size))
        key = batch["wave"].shape, batch["tokens"].shape
        steps[key], seconds = training.compile(batch)
        flops[key], resident[key], compile_s = training.flops(batch), batch, compile_s + seconds
    batches: list[tuple[tuple, int, float]] = []

    def read() -> Iterator[tuple[Callable, dict[str, jax.Array]]]:
        for batch in _endless(loader):  # starts reading with the first step
            key = batch["wave"].shape, batch["tokens"].shape
            batches.append((key, np.count_nonzero(batch["index"] >= 0), float(batch["wave_lengths"].sum()) / rate_hz))
            yield steps[key], training.put(batch)

    forget_peak()
    step_s = _time_late(training, read(), num_steps)
    resident_s = _time_late(training, ((steps[key], resident[key]) for key, *_ in batches), num_steps)
    counted = batches[WARM_UP_STEPS - 1 :][:num_steps]  # the time of a step ends when the one before it has ended
    mean = np.mean([(flops[key], utterances, seconds) for key, utterances, seconds in counted], axis=0).tolist()
    facts = {"flops": mean[0], "num_devices": num_devices, "resident_s": resident_s}
    facts["planned_bytes"] = max(planned_bytes(step) for step in steps.values())
    return _finish("train", (mean[1], mean[2]), compile_s, step_s, training.state.params, **facts)


def _time_late(training: _Training, steps: Iterable[tuple[Callable, Any]], num_steps: int) -> list[float]:
    """Return the seconds of each step after a warm-up, fetching its metrics while the next step runs, as a run does."""
    marks, pending = [], None
    for step, batch in itertools.islice(steps, WARM_UP_STEPS + num_steps):
        metrics = training.run(step, batch)
        jax.device_get(pending)
        pending = metrics
        marks.append(time.perf_counter())
    jax.block_until_ready((training.state, pending))
    return np.diff(marks)[WARM_UP_STEPS - 1 :].tolist()


def _measure_infer(config: Config, size: BatchSize, num_steps: int) -> Measurement:
    batch = jax.device_put(_random_batch(config, size))
    inputs = batch["wave"], batch["wave_lengths"]
    variables = {"params": jax.jit(lambda: _init_params(config))()}
    compiled, compile_s = _compile(jax.jit(_make_transcribe(config, size.tokens)), variables, *inputs)
    plain = _plain(config)
    params = jax.eval_shape(lambda: _init_params(plain))
    step_s = _time(_awaited(lambda: compiled(variables, *inputs)), num_steps)
    flops = count_flops(_make_transcribe(plain, size.tokens), {"params": params}, *inputs)
    facts = {"flops": flops, "planned_bytes": planned_bytes(compiled)}
    return _finish("infer", size.totals, compile_s, step_s, variables, **facts)


def _make_transcribe(config: Config, num_rows: int) -> Callable:
    """Return `transcribe(variables, wave_bn, wave_lengths_b) → (tokens_bu, confidence_bu)`."""
    model, frontend = build_model(config.model), make_frontend(config.features, _no_change(config))

    def transcribe(variables, wave_bn, wave_lengths_b):
        acoustics = model.apply(variables, *frontend(wave_bn, wave_lengths_b), method="encode")
        hypotheses = model.apply(variables, acoustics, num_rows, method="decode")
        # All rows are computed, even if an untrained predictor counts too few tokens.
        return greedy(hypotheses.logits_buv, hypotheses.token_lengths_b)

    return transcribe


def _measure_frontend(config: Config, size: BatchSize, num_steps: int) -> Measurement:
    batch = jax.device_put(_random_batch(config, size))
    inputs = batch["wave"], batch["wave_lengths"]
    compiled, compile_s = _compile(jax.jit(make_frontend(config.features, _no_change(config))), *inputs)
    return _finish("frontend", size.totals, compile_s, _time(_awaited(lambda: compiled(*inputs)), num_steps))


def _measure_input(config: Config, num_steps: int) -> Measurement:
    dataset = build_dataset(config, "train")
    loader = TrainLoader(dataset, choose_tokenizer(config, dataset.texts()), config)
    sizes = []

    def steps() -> Iterator[None]:
        for batch in _endless(loader):
            seconds = batch["wave_lengths"].sum() / config.features.sample_rate_hz
            sizes.append((np.count_nonzero(batch["index"] >= 0), seconds))
            yield

    step_s = _time(steps(), num_steps)
    utterances, seconds = np.mean(sizes[WARM_UP_STEPS:], axis=0)
    return _finish("input", (float(utterances), float(seconds)), 0.0, step_s)


def _endless(loader: TrainLoader) -> Iterator[Batch]:
    while True:
        yield from loader.iterate(0)


def _plain(config: Config) -> Config:
    """Return the config in the form that is counted: no recomputation, no fused kernel that hides its products."""
    encoder = dataclasses.replace(config.model.encoder, attention="explicit")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder, remat=False))


def _init_params(config: Config) -> Any:
    model = build_model(config.model)
    return init_state(model, config.model.input_dim, optax.identity(), jax.random.key(0), with_ema=False).params


def _no_change(config: Config) -> Cmvn:
    width = config.features.input_dim
    return Cmvn(np.zeros(width, np.float32), np.ones(width, np.float32))


def _random_batch(config: Config, size: BatchSize) -> dict[str, np.ndarray]:
    """Return a batch of noise; some hardware computes zeros faster."""
    rng = np.random.default_rng(0)
    num_samples = round(size.seconds * config.features.sample_rate_hz)
    batch = {
        "wave": rng.normal(0, 0.1, (size.utterances, num_samples)).astype(np.float32),
        "wave_lengths": np.full(size.utterances, num_samples, np.int32),
        "tokens": rng.integers(1, max(config.model.vocab_size, 2), (size.utterances, size.tokens), np.int32),
        "token_lengths": np.full(size.utterances, size.tokens, np.int32),
    }
    return {name: batch[name] for name in ON_DEVICE}


def _compile(function: Callable, *arguments) -> tuple[Callable, float]:
    """Return the compiled function and the seconds of tracing and compiling."""
    start = time.perf_counter()
    compiled = compile_program(function, *arguments)
    return compiled, time.perf_counter() - start


def _awaited(step: Callable[[], Any]) -> Iterator[None]:
    while True:
        jax.block_until_ready(step())
        yield


def _time(steps: Iterator[Any], num_steps: int) -> list[float]:
    """Return the seconds of each of `num_steps` steps, after a warm-up."""
    for _ in range(WARM_UP_STEPS):
        next(steps)
    forget_peak()
    marks = [time.perf_counter()]
    for _ in range(num_steps):
        next(steps)
        marks.append(time.perf_counter())
    return np.diff(marks).tolist()


def _finish(
    mode: str, size: tuple[float, float], compile_s: float, step_s: list[float], params: Any = None, **facts: Any
) -> Measurement:
    """Return the measurement; `size` holds utterances and seconds of sound in a step."""
    size_and_times = {"mode": mode, "batch": size[0], "audio_s": size[1], "compile_s": compile_s, "step_s": step_s}
    return Measurement(**size_and_times, parameters=count_parameters(params), **memory_in_use(), **facts)
