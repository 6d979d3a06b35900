"""Measures how fast a model trains and transcribes, how fast features are computed, and how fast sound is read."""

import dataclasses
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from asr.config import Config
from asr.data import build_dataset
from asr.data.frontend import Cmvn, make_frontend
from asr.data.loader import TrainLoader
from asr.data.tokenizer_building import choose_tokenizer
from asr.decode.greedy import greedy
from asr.models import build_model, count_parameters
from asr.training.mesh import build_placement
from asr.training.optimizer import build_optimizer
from asr.training.setup import ON_DEVICE, jit_steps
from asr.training.state import init_state

PEAK_FLOPS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}
"""Dense bfloat16 operations per second by the data sheet; of the model, not of the compiler."""

WARM_UP_STEPS = 3


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """What one step computes.

    Attributes:
        utterances: b, rows.
        seconds: of sound in each row.
        tokens: u, in each row, the end of sentence counted.
    """

    utterances: int = 8
    seconds: float = 8.0
    tokens: int = 32


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one benchmark found; times in seconds.

    Attributes:
        mode: "train", "infer", "frontend" or "input".
        batch: utterances in a step, on average.
        audio_s: seconds of sound in a step, on average.
        compile_s: time of the compilation, 0 where nothing is compiled.
        step_s: times of the single steps.
        flops: operations of one step as the compiler counts them before it optimises, recomputation left out; None
            where there is no model.
        parameters: of the model, 0 where there is none.
        device_bytes: largest memory in use on the device, where the device tells.
        process_bytes: largest resident memory of this process so far.
    """

    mode: str
    batch: float
    audio_s: float
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
            "audio_s": self.audio_s,
            "steps": len(self.step_s),
            "parameters": self.parameters,
            "compile_s": self.compile_s,
            "median_s": median,
            "p95_s": p95,
            "audio_s_per_s": self.audio_s / median,
            "flops": self.flops,
            "flops_per_s": self.flops / median if self.flops else None,
            "mfu": self.flops / median / peak if self.flops and peak else None,
            "device_bytes": self.device_bytes,
            "process_bytes": self.process_bytes,
        }


def measure(config: Config, size: BatchSize, mode: str, num_steps: int) -> Measurement:
    """Return the times of `num_steps` steps.

    Args:
        config: `model.vocab_size` set, unless the mode is "input" or "frontend".
        size: of a batch; for "input" the config's own batches are read.
        mode: "train" (the step of a run, front end included, on one batch again and again), "infer" (from sound to
            tokens), "frontend" (from sound to features) or "input" (the loader alone).
        num_steps: steps that count, after the warm-up.
    """
    model = dataclasses.replace(config.model, input_dim=config.features.input_dim)
    config = dataclasses.replace(config, model=model)
    match mode:
        case "train":
            return _measure_train(config, size, num_steps)
        case "infer":
            return _measure_infer(config, size, num_steps)
        case "frontend":
            return _measure_frontend(config, size, num_steps)
        case _:
            return _measure_input(config, num_steps)


def _measure_train(config: Config, size: BatchSize, num_steps: int) -> Measurement:
    optimizer = build_optimizer(config.optimizer, 1000)
    placement = build_placement(config.mesh)
    jitted = jit_steps(config, build_model(config.model), optimizer, _no_change(config), placement)
    state = jitted["init"]()
    batch = placement.put_batch(_random_batch(config, size))
    flags = jax.device_put(np.bool_(True), placement.replicated), placement.put_flag(False)
    compiled, compile_s = _compile(jitted["train_step"], state, batch, *flags)
    plain = jit_steps(_plain(config), build_model(_plain(config).model), optimizer, _no_change(config), placement)
    flops = _flops(plain["train_step"], jax.eval_shape(plain["init"]), batch, *flags)

    def steps(state) -> Iterator[None]:
        while True:
            state, metrics, _ = compiled(state, batch, *flags)
            jax.block_until_ready((state, metrics))
            yield

    parameters = count_parameters(state.params)
    return _finish("train", _fixed(size), compile_s, _time(steps(state), num_steps), flops, parameters)


def _measure_infer(config: Config, size: BatchSize, num_steps: int) -> Measurement:
    batch = jax.device_put(_random_batch(config, size))
    inputs = batch["wave"], batch["wave_lengths"]
    variables = {"params": jax.jit(lambda: _init_params(config))()}
    compiled, compile_s = _compile(jax.jit(_make_transcribe(config, size.tokens)), variables, *inputs)
    plain = _plain(config)
    params = jax.eval_shape(lambda: _init_params(plain))
    flops = _flops(jax.jit(_make_transcribe(plain, size.tokens)), {"params": params}, *inputs)

    def steps() -> Iterator[None]:
        while True:
            jax.block_until_ready(compiled(variables, *inputs))
            yield

    parameters = count_parameters(variables)
    return _finish("infer", _fixed(size), compile_s, _time(steps(), num_steps), flops, parameters)


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

    return _finish("frontend", _fixed(size), compile_s, _time(steps(), num_steps), None, 0)


def _measure_input(config: Config, num_steps: int) -> Measurement:
    dataset = build_dataset(config, "train")
    loader = TrainLoader(dataset, choose_tokenizer(config, dataset.texts()), config)
    sizes = []

    def steps() -> Iterator[None]:
        while True:  # more steps may be asked for than the run has
            for batch in loader.iterate(0):
                seconds = batch["wave_lengths"].sum() / config.features.sample_rate_hz
                sizes.append((np.count_nonzero(batch["index"] >= 0), seconds))
                yield

    step_s = _time(steps(), num_steps)
    utterances, seconds = np.mean(sizes[WARM_UP_STEPS:], axis=0)
    return _finish("input", (float(utterances), float(seconds)), 0.0, step_s, None, 0)


def _plain(config: Config) -> Config:
    """Return the config of the same arithmetic in the form whose operations can be counted: no loop, no recomputation.

    The compiler counts the body of a loop once, and recomputation is not work that the model asks for.
    """
    encoder = dataclasses.replace(config.model.encoder, scan=False, attention="explicit")
    model = dataclasses.replace(config.model, encoder=encoder, remat=False)
    return dataclasses.replace(config, model=model, training=dataclasses.replace(config.training, accumulate=1))


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


def _fixed(size: BatchSize) -> tuple[float, float]:
    return size.utterances, size.utterances * size.seconds


def _compile(function: Callable, *arguments) -> tuple[Callable, float]:
    """Return the compiled function and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def _time(steps: Iterator[Any], num_steps: int) -> list[float]:
    """Return the seconds that each of `num_steps` steps takes, after a warm-up."""
    for _ in range(WARM_UP_STEPS):
        next(steps)
    marks = [time.perf_counter()]
    for _ in range(num_steps):
        next(steps)
        marks.append(time.perf_counter())
    return np.diff(marks).tolist()


def _flops(function: Callable, *arguments) -> float | None:
    cost = function.lower(*arguments).cost_analysis()
    return float(cost["flops"]) if cost and cost.get("flops", 0) > 0 else None


def _finish(
    mode: str, size: tuple[float, float], compile_s: float, step_s: list[float], flops: float | None, parameters: int
) -> Measurement:
    statistics = jax.local_devices()[0].memory_stats() or {}
    return Measurement(
        mode=mode,
        batch=size[0],
        audio_s=size[1],
        compile_s=compile_s,
        step_s=step_s,
        flops=flops,
        parameters=parameters,
        device_bytes=statistics.get("peak_bytes_in_use"),
        process_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
