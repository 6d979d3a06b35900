"""Measures one point in this process: its time, and the memory that it takes above the model."""

import argparse
import dataclasses
import time

import jax
import numpy as np

from seg.bench import PUBLISHED_UNET, with_num_classes
from seg.classes import make_class_table
from seg.compiler import plan_memory
from seg.config import Config
from seg.config.reader import load_start_config, override_config
from seg.inference.forward import make_forward
from seg.inference.predictor import Predictor
from seg.inference.tiling import place_windows
from seg.models import abstract_variables, build_model
from seg.profiling.benchmark import PEAK_FLOPS, measure, plain_model
from seg.profiling.flops import count_flops
from seg.profiling.memory import is_out_of_memory
from seg.profiling.process_memory import forget_peak, peak_bytes, resident_bytes
from seg.record.environment import describe_environment


def measure_point(arguments: argparse.Namespace, kind: str, n: int) -> dict:
    """Return the row of a point.

    Args:
        arguments: of the script.
        kind: "tiles", "whole" or "train".
        n: side of the image, or images in a step.
    """
    config = read_config(arguments, n if kind == "train" else arguments.windows)
    row = {"kind": kind, "n": n}
    try:
        measured = measure_step(config, arguments) if kind == "train" else measure_image(config, kind, n, arguments)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        measured = {"failed": "out of memory"}
    return row | measured | {"environment": describe_environment()}


def read_config(arguments: argparse.Namespace, batch: int) -> Config:
    """Return the settings of a point; the windows overlap by half."""
    side = arguments.window
    overrides = [f"data.size=[{side}, {side}]", f"training.batch_size={batch}", f"inference.batch_size={batch}"]
    overrides += [f"model.dtype={arguments.dtype}", *arguments.overrides]
    if arguments.config is None:
        return override_config(PUBLISHED_UNET, overrides)
    config = load_start_config(arguments.config, overrides)
    return with_num_classes(config, config.model.num_classes or 2)


def measure_step(config: Config, arguments: argparse.Namespace) -> dict:
    """Return time and memory of the training step; the state, parameters and moments, is part of it."""
    measured = measure(config, "train", arguments.steps).summary()
    return {
        "megapixels": config.training.batch_size * np.prod(config.data.size).item() / 1e6,
        "seconds": measured["median_s"],
        "repeats": measured["steps"],
        "memory_bytes": measured["process_bytes"] - measured["bare_bytes"],
        "planned_bytes": measured["planned_bytes"],
        "device_bytes": measured["device_bytes"],
        "flops": measured["flops"],
        "mfu": measured["mfu"],
    }


def measure_image(config: Config, kind: str, side: int, arguments: argparse.Namespace) -> dict:
    """Return time and memory of the segmentation of one image of noise."""
    if kind == "whole":
        whole = dataclasses.replace(config.inference, whole_up_to=side * side)
        config = dataclasses.replace(config, inference=whole)
    predictor = build_predictor(config)
    image_hwc = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    if kind == "whole" and (refused := beyond_memory(predictor, image_hwc)):
        return {"failed": refused}
    predictor.predict(image_hwc[: arguments.window + 1, : arguments.window + 1])  # compiles all that windows need
    before = resident_bytes()
    if kind == "whole":
        predictor.predict(image_hwc)  # compiles for this size
    forget_peak()
    times = repeat(lambda: predictor.predict(image_hwc), arguments.seconds)
    seconds, flops = float(np.median(times)), image_flops(config, kind, side)
    peak = PEAK_FLOPS.get(jax.local_devices()[0].device_kind)
    return {
        "megapixels": side * side / 1e6,
        "seconds": seconds,
        "repeats": len(times),
        "memory_bytes": max(peak_bytes() - before, 0),
        "device_bytes": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        "flops": flops,
        "mfu": flops / seconds / peak if peak else None,
    }


def build_predictor(config: Config) -> Predictor:
    """Return the model with random weights."""
    names = tuple(f"class {i}" for i in range(config.model.num_classes))
    model, (height, width) = build_model(config.model), config.data.size
    image_bhwc = np.zeros((1, height, width, 3), np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), image_bhwc, train=False))()
    return Predictor(config, make_class_table(names), variables)


def beyond_memory(predictor: Predictor, image_hwc: np.ndarray) -> str:
    """Return why an image is not tried whole: a host that runs out of memory may kill others; empty where it fits."""
    if jax.default_backend() != "cpu":
        return ""
    forward = jax.jit(make_forward(build_model(predictor.config.model), predictor.config))
    need = plan_memory(forward.lower(predictor.variables, image_hwc[None]).compile())
    free = available_bytes()
    if need is None or free is None or need.peak < 0.9 * free:
        return ""
    return f"not tried: needs {need.peak / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


def available_bytes() -> int | None:
    """Return the free memory of the machine, or None where it is not reported."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
    except OSError:
        return None
    return 1024 * int(lines["MemAvailable"].split()[0])


def image_flops(config: Config, kind: str, side: int) -> float:
    """Return the operations that the model is asked for: overlapping windows count each, and so do copies."""
    shape, calls = config.data.size, 1
    if kind == "whole":
        shape = (side, side)
    elif side > shape[0]:
        windows = len(place_windows(side, shape[0], config.inference.overlap)) ** 2
        batch = config.inference.batch_size
        calls = -(-windows // batch) * batch
    image = jax.ShapeDtypeStruct((1, *shape, 3), "uint8")
    forward = make_forward(build_model(plain_model(config.model)), config)
    return calls * count_flops(forward, abstract_variables(config.model), image)


def repeat(function, seconds: float) -> list[float]:
    """Return the times of as many calls as begin within so many seconds."""
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        function()
        times.append(time.perf_counter() - before)
    return times
