"""Times a training step of Paraformer here and in FunASR (PyTorch), in turn on the same cores.

    pip install torch funasr     # needed by this script alone; may be another environment, see --peer-python
    python tests/stress/bench_peer.py --batch 8 --seconds 8 --cores 0,1 [--peer-python PATH] [--json FILE]

Both sides hold the same network (SAN-M 12 × 256 and 6 decoder layers, or as --layers, --width and --decoder-layers
say), take a batch of noise of the same size and the same optimizer (AdamW, gradients clipped). FunASR's side is its
own `Paraformer` module: two passes with the sampler, its predictor, its losses. It is given features; ours computes
them from sound within the step, which `python -m asr.bench --mode frontend` measures alone. The two run in processes
of their own, alternating, so that a machine whose speed drifts does not favour one. The ratio is taken within each
pair, and its median is the result. Memory is what is resident at most while the steps run; on a GPU, what is allocated
there. --compile has the other side compiled by `torch.compile`, --ours is for settings of ours that change no result,
such as model.encoder.scan=true.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP_STEPS = 3
VOCABULARY, INPUT_WIDTH = 4233, 560
SAMPLE_RATE_HZ, FRAME_SAMPLES, SHIFT_SAMPLES, FRAMES_IN_ONE = 16000, 400, 160, 6


def num_feature_frames(seconds: float) -> int:
    """Return the stacked frames (60 ms apart) of so much sound."""
    num_samples = round(seconds * SAMPLE_RATE_HZ)
    return -(-(1 + (num_samples - FRAME_SAMPLES) // SHIFT_SAMPLES) // FRAMES_IN_ONE)


def build_funasr_paraformer(layers: int = 12, width: int = 256, decoder_layers: int = 6, vocabulary: int = VOCABULARY):
    """Return FunASR's Paraformer as a torch module, with the settings of its published configs at this size."""
    from funasr.models.paraformer import cif_predictor, decoder  # noqa: F401 (registers the classes by name)
    from funasr.models.paraformer.model import Paraformer
    from funasr.models.sanm import encoder  # noqa: F401

    return Paraformer(
        encoder="SANMEncoder",
        encoder_conf={
            "output_size": width,
            "attention_heads": 4,
            "linear_units": 2048,
            "num_blocks": layers,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "attention_dropout_rate": 0.0,
            "input_layer": "pe",
            "kernel_size": 11,
        },
        decoder="ParaformerSANMDecoder",
        decoder_conf={
            "attention_heads": 4,
            "linear_units": 2048,
            "num_blocks": decoder_layers,
            "att_layer_num": decoder_layers,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "kernel_size": 11,
        },
        predictor="CifPredictorV2",
        predictor_conf={"idim": width, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45},
        ctc_weight=0.0,
        input_size=INPUT_WIDTH,
        vocab_size=vocabulary,
        lsm_weight=0.1,
        length_normalized_loss=True,
        predictor_weight=1.0,
        predictor_bias=1,
        sampling_ratio=0.75,
    )


def keep_float32(module, device: str) -> None:
    """Have a torch module compute in float32 under autocast: FunASR's integrate-and-fire fails in bfloat16.

    Ours is computed in float32, too.
    """
    import torch

    forward = module.forward

    def in_float32(*arguments, **named):
        def widen(value):
            return value.float() if torch.is_tensor(value) and value.is_floating_point() else value

        with torch.autocast(device, enabled=False):
            return forward(*map(widen, arguments), **{name: widen(value) for name, value in named.items()})

    module.forward = in_float32


def time_torch(arguments: argparse.Namespace) -> dict:
    """Return the seconds of each step in PyTorch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    sizes = arguments.layers, arguments.width, arguments.decoder_layers, arguments.vocabulary
    model = build_funasr_paraformer(*sizes).to(device).train()
    frames, spoken = num_feature_frames(arguments.seconds), arguments.tokens - 1  # FunASR appends the end itself
    batch = {
        "speech": torch.randn(arguments.batch, frames, INPUT_WIDTH),
        "speech_lengths": torch.full((arguments.batch,), frames, dtype=torch.int32),
        "text": torch.randint(3, arguments.vocabulary - 1, (arguments.batch, spoken)),
        "text_lengths": torch.full((arguments.batch,), spoken, dtype=torch.int32),
    }
    batch = {name: value.to(device) for name, value in batch.items()}
    keep_float32(model.predictor, device)
    called = torch.compile(model) if arguments.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2, fused=device == "cuda")

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            loss, _, _ = called(**batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UP_STEPS):
        step()
    seconds, process_memory = [], load_process_memory()
    process_memory.forget_peak()
    for _ in range(arguments.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else process_memory.peak_bytes()
    parameters = sum(p.numel() for p in model.parameters())
    return {"step_s": seconds, "parameters": parameters, "torch": torch.__version__, "memory_bytes": memory}


def load_process_memory():
    """Return the package's module of this name, alone: the package would bring jax into the other side's memory."""
    path = Path(__file__).parents[2] / "src/asr/profiling/process_memory.py"
    spec = importlib.util.spec_from_file_location("process_memory", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_side(side: str, arguments: argparse.Namespace, file: Path) -> dict:
    """Run one side in a process of its own and return its numbers."""
    common = ["--batch", arguments.batch, "--seconds", arguments.seconds, "--tokens", arguments.tokens]
    common += ["--dtype", arguments.dtype, "--steps", arguments.steps, "--json", file]
    if side == "ours":
        model = ("encoder.num_layers", "layers"), ("encoder.width", "width"), ("decoder.num_layers", "decoder_layers")
        sizes = [f"model.{key}={getattr(arguments, name)}" for key, name in (*model, ("vocab_size", "vocabulary"))]
        command = [sys.executable, "-m", "asr.bench", *common, *sizes, *arguments.ours]
    else:
        sizes = ["--layers", arguments.layers, "--width", arguments.width, "--decoder-layers", arguments.decoder_layers]
        sizes += ["--vocabulary", arguments.vocabulary, *(["--compile"] if arguments.compile else [])]
        command = [arguments.peer_python, __file__, "--torch-only", *common, *sizes]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}  # waiting threads of one side must not slow the other
    if subprocess.run(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"error: {side} could not be timed, see above")
    numbers = json.loads(file.read_text())
    if side == "ours":
        numbers["memory_bytes"] = numbers["device_bytes"] or numbers["process_bytes"]
    else:
        numbers["median_s"] = statistics.median(numbers["step_s"])
    return numbers


def compare(arguments: argparse.Namespace) -> dict:
    """Run both sides in turn and return all medians and the median of the ratios."""
    pairs, numbers = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.pairs):
            for side in ("ours", "torch"):
                numbers[side] = run_side(side, arguments, Path(folder) / f"{side}.json")
            if numbers["ours"]["parameters"] != numbers["torch"]["parameters"]:
                sys.exit(f"the two networks differ: {[n['parameters'] for n in numbers.values()]} parameters")
            pairs.append((numbers["ours"]["median_s"], numbers["torch"]["median_s"]))
            print(f"pair {number + 1}: ours {1e3 * pairs[-1][0]:.0f} ms, torch {1e3 * pairs[-1][1]:.0f} ms, ", end="")
            print(f"ratio {pairs[-1][0] / pairs[-1][1]:.2f}", flush=True)
    ours, torch_side = zip(*pairs, strict=True)
    return {
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("json", "torch_only", "peer_python")},
        "parameters": numbers["ours"]["parameters"],
        "ours_s": ours,
        "torch_s": torch_side,
        "ratio": statistics.median(a / b for a, b in pairs),
        "memory_bytes": {side: side_numbers["memory_bytes"] for side, side_numbers in numbers.items()},
        "environment": numbers["ours"]["environment"] | {"torch": numbers["torch"]["torch"]},
        "processor": platform.processor(),
    }


def main() -> None:
    """Compare, or time the torch side alone."""
    parser = argparse.ArgumentParser(description="A training step here and in FunASR, on the same cores.")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="of sound in each utterance")
    parser.add_argument("--tokens", type=int, default=32, help="in each utterance, the end of sentence counted")
    parser.add_argument("--layers", type=int, default=12, help="of the encoder")
    parser.add_argument("--width", type=int, default=256, help="of the model")
    parser.add_argument("--decoder-layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens, special ones counted")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=10, help="steps of each run")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--cores", help="processors to pin both sides to, for example 0,1")
    parser.add_argument("--peer-python", default=sys.executable, help="Python of an environment with torch and funasr")
    parser.add_argument("--compile", action="store_true", help="PyTorch's side by torch.compile")
    parser.add_argument("--ours", nargs="+", default=[], metavar="key=value", help="further settings of our side")
    parser.add_argument("--json", type=Path, help="write all numbers")
    parser.add_argument("--torch-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cores:
        os.sched_setaffinity(0, {int(core) for core in arguments.cores.split(",")})
    result = time_torch(arguments) if arguments.torch_only else compare(arguments)
    if not arguments.torch_only:
        median = {side: 1e3 * statistics.median(result[f"{side}_s"]) for side in ("ours", "torch")}
        print(f"median: ours {median['ours']:.0f} ms, torch {median['torch']:.0f} ms; ratio {result['ratio']:.2f}")
        used = {side: size / 1e9 for side, size in result["memory_bytes"].items()}
        print(f"memory while the steps ran: ours {used['ours']:.2f} GB, torch {used['torch']:.2f} GB")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
