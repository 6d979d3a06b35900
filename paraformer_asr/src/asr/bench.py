"""Measure speed and memory: `asr bench [--config CONFIG] [key=value …]`.

Operations are those of matrix products and convolutions: each pass through a loop counts, recomputation does not. MFU
is their rate over the dense bfloat16 peak of the devices, left out where that peak is unknown.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from asr.allocator import keep_freed
from asr.cli import run_command
from asr.config import Config, DecoderConfig, EncoderConfig, ModelConfig
from asr.config.reader import load_start_config, override_config
from asr.errors import EXIT_OK, UserError
from asr.files import replace_json

AISHELL_TOKENS = 4233
WARM_UP_STEPS = 3
SMALL_PARAFORMER = Config(
    name="bench",
    model=ModelConfig(
        vocab_size=AISHELL_TOKENS, encoder=EncoderConfig(num_layers=12, width=256), decoder=DecoderConfig(num_layers=6)
    ),
)
"""The model measured without a config: 12 SAN-M blocks of width 256 and 6 decoder blocks, as in the small published
recipes; feed-forward width 2048, 4 heads, kernel 11, dropout 0.1, no CTC."""


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr bench",
        description="Time steps of training (train), of the network from sound to tokens (infer), of transcription "
        "from sound on the host to tokens on the host, as in asr infer (transcribe), of features (frontend), or of "
        "reading (input). Without --config: SAN-M 12 × 256 with 6 decoder layers, float32, 8 × 8 s.",
    )
    parser.add_argument("--config", type=Path, help="YAML file, or the name of a packaged config")
    parser.add_argument("--mode", choices=("train", "infer", "transcribe", "frontend", "input"), default="train")
    parser.add_argument(
        "--with-input",
        action="store_true",
        help="train on batches of the config's data, as a run does, and compare with batches in memory",
    )
    parser.add_argument("--batch", type=int, default=8, help="utterances in a step (default: 8)")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of sound in an utterance (default: 8)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens in an utterance (default: 32)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--attention", choices=("explicit", "xla", "cudnn"))
    parser.add_argument("--remat", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--scan", action="store_true", help="one compiled block for all encoder layers")
    parser.add_argument("--steps", type=int, default=50, help="steps to time (default: 50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to a file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example model.encoder.width=512")
    return parser.parse_intermixed_args()


def read_config(arguments: argparse.Namespace) -> Config:
    """Return the config that the arguments describe; refuse an impossible setting or batch size."""
    for name, least in (("batch", 1), ("seconds", 0.1), ("tokens", 1), ("steps", 1)):
        if not getattr(arguments, name) >= least:
            raise UserError(f"--{name}: expected at least {least}, found {getattr(arguments, name)}")
    if arguments.with_input and arguments.mode != "train":
        raise UserError(f"--with-input: expected --mode train, found {arguments.mode}; --mode input reads alone")
    flags = {
        "model.dtype": arguments.dtype,
        "model.encoder.attention": arguments.attention,
        "model.remat": "true" if arguments.remat else None,
        "model.encoder.scan": "true" if arguments.scan else None,
        "training.batch_seconds": arguments.batch * arguments.seconds if arguments.config is None else None,
    }
    overrides = [f"{key}={value}" for key, value in flags.items() if value is not None] + arguments.overrides
    if arguments.config is None:
        return override_config(SMALL_PARAFORMER, overrides)
    config = load_start_config(arguments.config, overrides)
    vocab_size = config.model.vocab_size or AISHELL_TOKENS  # a run takes it from its tokenizer
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))


def format_summary(numbers: dict) -> str:
    """Return the numbers as lines of text."""
    lines = [
        f"{numbers['mode']}: {numbers['steps']} steps of {numbers['batch']:.4g} utterances, {numbers['audio_s']:.4g} s "
        f"of sound; median {1e3 * numbers['median_s']:.1f} ms, 95th percentile {1e3 * numbers['p95_s']:.1f} ms; "
        f"{numbers['audio_s_per_s']:.1f} × real time",
        f"compilation {numbers['compile_s']:.1f} s; process memory {numbers['process_bytes'] / 1e9:.2f} GB",
    ]
    if numbers.get("input_ratio"):
        lines.append(
            f"without reading: median {1e3 * numbers['resident_median_s']:.1f} ms, 95th percentile "
            f"{1e3 * numbers['resident_p95_s']:.1f} ms; {numbers['resident_audio_s_per_s']:.1f} × real time; the time "
            f"with reading is {numbers['input_ratio']:.3f} of that without"
        )
    if numbers["device_bytes"] or numbers["planned_bytes"]:
        planned = f"planned for a step {numbers['planned_bytes'] / 1e9:.2f} GB"
        used = f", largest in use {numbers['device_bytes'] / 1e9:.2f} GB" if numbers["device_bytes"] else ""
        lines.append(f"memory of each of {numbers['num_devices']} device(s): {planned}{used}")
    if numbers["flops"]:
        lines.append(
            f"{numbers['parameters']:,} parameters; {numbers['flops'] / 1e9:.1f} GFLOP a step, "
            f"{numbers['flops_per_s'] / 1e12:.3f} TFLOP/s"
        )
    if numbers["mfu"]:
        lines.append(f"{100 * numbers['mfu']:.1f} % of the dense bfloat16 peak (MFU)")
    return "\n".join(lines)


def measure_transcriber(config: Config, size, num_steps: int):
    """Return the `Measurement` of an untrained transcriber that transcribes one batch repeatedly."""
    import numpy as np

    from asr.inference.shapes import Shape
    from asr.models import count_parameters
    from asr.profiling.measurement import Measurement, memory_in_use
    from asr.profiling.process_memory import forget_peak
    from asr.profiling.random_model import build_untrained_transcriber

    inference = dataclasses.replace(config.inference, batch_size=size.utterances)
    transcriber = build_untrained_transcriber(dataclasses.replace(config, inference=inference))
    num_samples = round(size.seconds * config.features.sample_rate_hz)
    wave_bn = np.random.default_rng(0).normal(0, 0.1, (size.utterances, num_samples)).astype(np.float32)
    start = time.perf_counter()
    transcriber.warm_up([Shape(*wave_bn.shape)])
    compile_s, marks = time.perf_counter() - start, []
    forget_peak()
    for _ in range(WARM_UP_STEPS + 1 + num_steps):
        for _ in transcriber.recognise_many(enumerate(wave_bn)):
            pass
        marks.append(time.perf_counter())
    memory = memory_in_use()  # before the weights are copied to be counted
    return Measurement(
        mode="transcribe",
        batch=size.utterances,
        audio_s=size.utterances * size.seconds,
        compile_s=compile_s,
        step_s=np.diff(marks)[WARM_UP_STEPS:].tolist(),
        parameters=count_parameters(transcriber.variables),
        **memory,
    )


def main() -> int:
    """Measure and report; return the exit code."""
    arguments = parse_arguments()
    config = read_config(arguments)
    if arguments.mode == "train" and config.training.keep_freed:
        keep_freed()  # as asr train does

    from asr.profiling.benchmark import BatchSize, measure
    from asr.record.environment import describe_environment  # imports jax: after the config was checked

    size = BatchSize(arguments.batch, arguments.seconds, arguments.tokens)
    if arguments.mode == "transcribe":
        numbers = measure_transcriber(config, size, arguments.steps).summary()
    else:
        numbers = measure(config, size, arguments.mode, arguments.steps, arguments.with_input).summary()
    print(format_summary(numbers))
    if arguments.json:
        try:
            replace_json(arguments.json, numbers | {"environment": describe_environment()})
        except OSError as error:
            raise UserError(f"--json {arguments.json}: cannot be written ({error.strerror})") from None
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
