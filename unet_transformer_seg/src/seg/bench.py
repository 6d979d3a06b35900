"""Measure speed and memory: `seg bench [--config CONFIG] [key=value …]`."""

import argparse
import dataclasses
from pathlib import Path

from seg.allocator import keep_freed
from seg.cli import run_command
from seg.config import Config, DataConfig, LossConfig, ModelConfig, TrainingConfig
from seg.config.reader import load_start_config, override_config
from seg.errors import EXIT_OK, UserError
from seg.files import replace_json

PUBLISHED_UNET = Config(
    name="bench",
    model=ModelConfig(name="unet", num_classes=2),
    data=DataConfig(size=(128, 128)),
    loss=LossConfig(name="cross_entropy"),
    training=TrainingConfig(batch_size=4),
)
"""Measured when no config is passed: the U-Net of 31 million parameters, 128 × 128, batch 4."""


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg bench",
        description="Measure steps of training (train), prediction (infer), or reading samples (input). "
        "Without --config: the U-Net of 31 million parameters, float32, batch 4, 128 × 128.",
    )
    parser.add_argument("--config", type=Path, help="YAML file, or the name of a packaged config")
    parser.add_argument("--mode", choices=("train", "infer", "input"), default="train")
    parser.add_argument(
        "--with-input",
        action="store_true",
        help="train: also feed the step from the loader, as in a run, and compare with repeating one batch",
    )
    parser.add_argument("--batch", type=int, help="images per step")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--attention", choices=("explicit", "xla", "cudnn"))
    parser.add_argument("--steps", type=int, default=50, help="measured steps (default: 50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example model.base_width=32")
    return parser.parse_intermixed_args()


def read_config(arguments: argparse.Namespace) -> Config:
    """Return the config that the arguments describe."""
    flags = {
        "training.batch_size": arguments.batch,
        "data.size": arguments.size,
        "model.dtype": arguments.dtype,
        "model.remat": "true" if arguments.remat else None,
        "model.transformer.attention": arguments.attention,
        "model.transunet.attention": arguments.attention,
    }
    overrides = [f"{key}={value}" for key, value in flags.items() if value is not None] + arguments.overrides
    if arguments.steps < 1:
        raise UserError(f"--steps: expected at least 1, found {arguments.steps}")
    if arguments.with_input and arguments.mode != "train":
        raise UserError(f"--with-input goes with --mode train, found --mode {arguments.mode}")
    if arguments.config is None:
        config = override_config(PUBLISHED_UNET, overrides)
        return with_num_classes(config, 0) if arguments.with_input else config
    config = load_start_config(arguments.config, overrides)
    return config if arguments.with_input else with_num_classes(config, config.model.num_classes or 2)


def with_num_classes(config: Config, num_classes: int) -> Config:
    """Return the config with another number of classes; 0 takes it from the data set."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=num_classes))


def format_summary(numbers: dict) -> str:
    """Return the numbers as lines of text."""
    lines = [
        f"{numbers['mode']}: {numbers['steps']} steps of {numbers['batch']} images; median "
        f"{1e3 * numbers['median_s']:.1f} ms, 95th percentile {1e3 * numbers['p95_s']:.1f} ms; "
        f"{numbers['images_per_s']:.2f} images/s",
        f"compilation {numbers['compile_s']:.1f} s; process memory {numbers['process_bytes'] / 1e9:.2f} GB",
    ]
    if numbers["planned_bytes"]:
        lines.append(f"a step needs {numbers['planned_bytes'] / 1e9:.2f} GB as the compiler plans it")
    if numbers["device_bytes"]:
        lines.append(f"device memory {numbers['device_bytes'] / 1e9:.2f} GB")
    if numbers["flops"]:
        lines.append(f"{numbers['flops'] / 1e9:.1f} GFLOP a step, {numbers['flops_per_s'] / 1e12:.3f} TFLOP/s")
    if numbers["mfu"]:
        lines.append(f"{100 * numbers['mfu']:.1f} % of the bfloat16 peak of {numbers['devices']} device(s)")
    if fed := numbers["fed"]:
        lines += [
            f"fed by the loader: median {1e3 * fed['median_s']:.1f} ms, 95th percentile {1e3 * fed['p95_s']:.1f} ms; "
            f"{fed['images_per_s']:.2f} images/s",
            f"a step with the input pipeline takes {fed['ratio']:.3f} times one without, in the mean",
        ]
    return "\n".join(lines)


def main() -> int:
    """Measure and report; return the exit code."""
    arguments = parse_arguments()
    config = read_config(arguments)
    if arguments.mode == "train" and config.training.keep_freed:
        keep_freed()  # as seg train does

    from seg.profiling.benchmark import measure
    from seg.record.environment import describe_environment  # imports jax: after the config was checked

    numbers = measure(config, arguments.mode, arguments.steps, arguments.with_input).summary()
    print(format_summary(numbers))
    if arguments.json:
        try:
            replace_json(arguments.json, numbers | {"environment": describe_environment()})
        except OSError as error:
            raise UserError(f"--json {arguments.json}: cannot be written ({error.strerror})") from None
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
