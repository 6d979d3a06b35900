"""Measures how fast a model trains and transcribes, how fast features are computed, and how fast sound is read.

The operations of a step are those of its products and convolutions, as `asr.profiling.flops` counts them: a loop as
often as it runs, and recomputation not at all, because the model does not ask for it. The share of the hardware's peak
(MFU) follows from them. The compiler's own count would take the body of a scanned encoder once.
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
        size: of a batch; where batches are read, they are the config's own instead.
        mode: "train" (the step of a run, front end included, on one batch again and again), "infer" (from sound to
            tokens), "frontend" (from sound to features) or "input" (the loader alone).
        num_steps: steps that count, after the warm-up.
        with_input: "train" takes its batches from the loader, as in a run, and is measured without it, too.

    Raises:
        UserError: a batch that cannot be spread over the devices; of the data, as in a run.
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
    """The jitted training step of a config, and what it is called with."""

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
        """Return the step for this shape of a batch, and the seconds of its compilation."""
        return _compile(self._jitted["train_step"], self.state, batch, *self._flags)

    def run(self, step: Callable, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Start a compiled step and return its numbers, which are not waited for."""
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

    def steps() -> Iterator[None]:
        while True:
            metrics = training.run(step, batch)
            jax.block_until_ready((training.state, metrics))
            yield

    step_s = _time(steps(), num_steps)
    facts = {"flops": training.flops(batch), "num_devices": num_devices, "planned_bytes": planned_bytes(step)}
    return _finish("train", size.totals, compile_s, step_s, training.state.params, **facts)


def _measure_train_with_input(config: Config, num_steps: int) -> Measurement:
    """Time steps on batches from the loader, then the same steps on batches that lie on the devices already."""
    dataset = build_dataset(config, "train")
    tokenizer = choose_tokenizer(config, dataset.texts())
    model = dataclasses.replace(config.model, vocab_size=max(config.model.vocab_size, tokenizer.vocab_size))
    config = dataclasses.replace(config, model=model)
    training = _Training(config)
    num_devices, rate_hz = training.placement.num_devices, config.features.sample_rate_hz
    loader = TrainLoader(dataset, tokenizer, config, num_devices)
    steps, flops, resident, compile_s = {}, {}, {}, 0.0
    for shape in loader.shapes:  # all that occur, so that no step is compiled while the time runs
        size = BatchSize(shape.batch_size, shape.num_samples / rate_hz, shape.num_tokens)
        batch = training.put(_random_batch(config, size))
        key = batch["wave"].shape, batch["tokens"].shape
        steps[key], seconds = training.compile(batch)
        flops[key], resident[key], compile_s = training.flops(batch), batch, compile_s + seconds
    met: list[tuple[tuple, int, float]] = []

    def read() -> Iterator[tuple[Callable, dict[str, jax.Array]]]:
        for batch in _endless(loader):  # begins to read with the first step: nothing was read ahead for nothing
            key = batch["wave"].shape, batch["tokens"].shape
            met.append((key, np.count_nonzero(batch["index"] >= 0), float(batch["wave_lengths"].sum()) / rate_hz))
            yield steps[key], training.put(batch)

    forget_peak()
    step_s = _time_late(training, read(), num_steps)
    resident_s = _time_late(training, ((steps[key], resident[key]) for key, *_ in met), num_steps)
    counted = met[WARM_UP_STEPS - 1 :][:num_steps]  # the time of a step ends when the one before it has ended
    mean = np.mean([(flops[key], utterances, seconds) for key, utterances, seconds in counted], axis=0).tolist()
    facts = {"flops": mean[0], "num_devices": num_devices, "resident_s": resident_s}
    facts["planned_bytes"] = max(planned_bytes(step) for step in steps.values())
    return _finish("train", (mean[1], mean[2]), compile_s, step_s, training.state.params, **facts)


def _time_late(training: _Training, steps: Iterable[tuple[Callable, Any]], num_steps: int) -> list[float]:
    """Return the seconds of each step after a warm-up, where its numbers are fetched when the next one is under way.

    So does a run: while the device computes, the host prepares the next batch.

    Args:
        training: whose state changes.
        steps: compiled step and batch of each.
        num_steps: that count.
    """
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

    def steps() -> Iterator[None]:
        while True:
            jax.block_until_ready(compiled(variables, *inputs))
            yield

    step_s = _time(steps(), num_steps)
    flops = count_flops(_make_transcribe(plain, size.tokens), {"params": params}, *inputs)
    facts = {"flops": flops, "planned_bytes": planned_bytes(compiled)}
    return _finish("infer", size.totals, compile_s, step_s, variables, **facts)


def _make_transcribe(config: Config, num_rows: int) -> Callable:
    """Return `transcribe(variables, wave_bn, wave_lengths_b) → (tokens_bu, confidence_bu)`."""
    model, frontend = build_model(config.model), make_frontend(config.features, _no_change(config))

    def transcribe(variables, wave_bn, wave_lengths_b):
        acoustics = model.apply(variables, *frontend(wave_bn, wave_lengths_b), method="encode")
        hypotheses = model.apply(variables, acoustics, num_rows, method="decode")
        # All rows are computed; none is left out for an untrained predictor that counts too few.
        return greedy(hypotheses.logits_buv, hypotheses.token_lengths_b)

    return transcribe


def _measure_frontend(config: Config, size: BatchSize, num_steps: int) -> Measurement:
    batch = jax.device_put(_random_batch(config, size))
    inputs = batch["wave"], batch["wave_lengths"]
    compiled, compile_s = _compile(jax.jit(make_frontend(config.features, _no_change(config))), *inputs)

    def steps() -> Iterator[None]:
        while True:
            jax.block_until_ready(compiled(*inputs))
            yield

    return _finish("frontend", size.totals, compile_s, _time(steps(), num_steps))


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
    """Yield the batches of the run, and begin anew where more are asked for than it has."""
    while True:
        yield from loader.iterate(0)


def _plain(config: Config) -> Config:
    """Return the config of the same arithmetic in the form whose operations are counted.

    Recomputation is not work that the model asks for, and a fused attention hides its products.
    """
    encoder = dataclasses.replace(config.model.encoder, attention="explicit")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder, remat=False))


def _init_params(config: Config) -> Any:
    model = build_model(config.model)
    return init_state(model, config.model.input_dim, optax.identity(), jax.random.key(0), with_ema=False).params


def _no_change(config: Config) -> Cmvn:
    width = config.features.input_dim
    return Cmvn(np.zeros(width, np.float32), np.ones(width, np.float32))


def _random_batch(config: Config, size: BatchSize) -> dict[str, np.ndarray]:
    """Return a batch of noise; zeros would be too easy for some hardware."""
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
    """Return the compiled function and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    compiled = compile_program(function, *arguments)
    return compiled, time.perf_counter() - start


def _time(steps: Iterator[Any], num_steps: int) -> list[float]:
    """Return the seconds that each of `num_steps` steps takes, after a warm-up."""
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
    given = {"mode": mode, "batch": size[0], "audio_s": size[1], "compile_s": compile_s, "step_s": step_s}
    return Measurement(**given, parameters=count_parameters(params), **memory_in_use(), **facts)
