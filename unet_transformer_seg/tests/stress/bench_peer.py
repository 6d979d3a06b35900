"""Times a training step or a prediction of a U-Net here and in PyTorch, in turn on the same cores.

    pip install torch            # of --peer-python; with --encoder also segmentation_models_pytorch
    python tests/stress/bench_peer.py --batch 4 --size 128 128 --cores 0,1 [--peer-python PATH] [--json FILE]
    python tests/stress/bench_peer.py --encoder efficientnet_lite0 --batch 2 --size 256 256 --cores 0

Both sides hold the same network (the published U-Net of 31 million parameters, or one of an encoder by name), take the
same batch of noise and the same optimizer (AdamW with cross entropy). They run in processes of their own, ours and
theirs alternating, so that a machine whose speed drifts does not favour one. The ratio is taken within each pair, and
its median is the result. Memory is what is resident at most while the steps run; on a GPU, what is allocated there.
--compile has the other side compiled by `torch.compile`, --ours is for settings of ours that change no result.
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


def build_torch_unet(num_classes: int = 2, widths: tuple[int, ...] = (64, 128, 256, 512, 1024)):
    """Return the U-Net with transposed convolutions and batch norm as a torch module, NCHW."""
    import torch
    from torch import nn

    def two_convs(channels: int, features: int) -> nn.Sequential:
        layers = []
        for before in (channels, features):
            layers += [nn.Conv2d(before, features, 3, padding=1, bias=False), nn.BatchNorm2d(features), nn.ReLU(True)]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            pairs = list(zip(widths[:-1], widths[1:], strict=True))
            self.stem = two_convs(3, widths[0])
            self.down = nn.ModuleList([two_convs(a, b) for a, b in pairs])
            self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs[::-1]])
            self.join = nn.ModuleList([two_convs(b, a) for a, b in pairs[::-1]])
            self.head = nn.Conv2d(widths[0], num_classes, 1)

        def forward(self, x):
            maps = [self.stem(x)]
            for stage in self.down:
                maps.append(stage(nn.functional.max_pool2d(maps[-1], 2)))
            x = maps.pop()
            for up, join in zip(self.up, self.join, strict=True):
                x = join(torch.cat([maps.pop(), up(x)], dim=1))
            return self.head(x)

    return UNet()


def build_torch_model(arguments: argparse.Namespace):
    """Return the network of the arguments as a torch module, NCHW."""
    if arguments.encoder == "plain":
        return build_torch_unet()
    import segmentation_models_pytorch as smp
    import torch

    name = f"timm-tf_{arguments.encoder}" if arguments.encoder.startswith("efficientnet") else arguments.encoder
    network = smp.Unet if arguments.decoder == "unet" else smp.Segformer
    model = network(name, encoder_weights=None, classes=2)
    for unused in ("conv_head", "bn2"):  # of the classifier, which EfficientNet keeps and a segmentation never calls
        if arguments.encoder.startswith("efficientnet") and hasattr(model.encoder, unused):
            setattr(model.encoder, unused, torch.nn.Identity())
    return model


def encoder_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the settings of the same network here."""
    if arguments.encoder == "plain":
        return []
    return [
        f"model.{key}={value}"
        for key, value in (("encoder", arguments.encoder), ("decoder", arguments.decoder), ("encoder_form", "smp"))
    ]


def time_torch(arguments: argparse.Namespace) -> dict:
    """Return the seconds of each step in PyTorch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model = build_torch_model(arguments).to(device, memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in model.parameters())
    run = torch.compile(model) if arguments.compile else model
    image = torch.rand(arguments.batch, 3, *arguments.size).to(device, memory_format=torch.channels_last)
    label = torch.randint(0, 2, (arguments.batch, *arguments.size), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2, fused=device == "cuda")
    half = torch.autocast(device, torch.bfloat16, enabled=arguments.dtype == "bfloat16")
    train = arguments.mode == "train"
    model.train(train)

    def step():
        with torch.set_grad_enabled(train), half:
            logits = run(image)
            if train:
                loss = torch.nn.functional.cross_entropy(logits, label)
        if train:
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
    return {"step_s": seconds, "parameters": parameters, "torch": torch.__version__, "memory_bytes": memory}


def load_process_memory():
    """Return the package's module of this name, alone: the package would bring jax into the other side's memory."""
    path = Path(__file__).parents[2] / "src/seg/profiling/process_memory.py"
    spec = importlib.util.spec_from_file_location("process_memory", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_side(side: str, arguments: argparse.Namespace, file: Path) -> dict:
    """Run one side in a process of its own and return its numbers."""
    common = ["--batch", arguments.batch, "--size", *arguments.size, "--dtype", arguments.dtype]
    common += ["--mode", arguments.mode, "--steps", arguments.steps, "--json", file]
    if side == "ours":
        command = [sys.executable, "-m", "seg.bench", *common, *encoder_overrides(arguments), *arguments.ours]
    else:
        common += ["--encoder", arguments.encoder, "--decoder", arguments.decoder]
        common += ["--compile"] if arguments.compile else []
        command = [arguments.peer_python, __file__, "--torch-only", *common]
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
            counts = [side_numbers["parameters"] for side_numbers in numbers.values()]
            # The keys of a MiT have biases in PyTorch, which change no answer.
            if counts[0] != counts[1] and not (arguments.encoder.startswith("mit") and counts[0] < counts[1]):
                sys.exit(f"the two networks differ: {counts} parameters")
            pairs.append((numbers["ours"]["median_s"], numbers["torch"]["median_s"]))
            print(f"pair {number + 1}: ours {1e3 * pairs[-1][0]:.0f} ms, torch {1e3 * pairs[-1][1]:.0f} ms, ", end="")
            print(f"ratio {pairs[-1][0] / pairs[-1][1]:.2f}", flush=True)
    ours, torch_side = zip(*pairs, strict=True)
    return {
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("json", "torch_only", "peer_python")},
        "ours_s": ours,
        "torch_s": torch_side,
        "ratio": statistics.median(a / b for a, b in pairs),
        "memory_bytes": {side: side_numbers["memory_bytes"] for side, side_numbers in numbers.items()},
        "environment": numbers["ours"]["environment"] | {"torch": numbers["torch"]["torch"]},
        "processor": platform.processor(),
    }


def main() -> None:
    """Compare, or time the torch side alone."""
    parser = argparse.ArgumentParser(description="A U-Net here and in PyTorch, on the same cores.")
    parser.add_argument("--encoder", default="plain", help="model.encoder; plain: the published U-Net (default)")
    parser.add_argument("--decoder", choices=("unet", "segformer"), default="unet", help="with --encoder")
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("H", "W"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=10, help="steps of each run")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--cores", help="processors to pin both sides to, for example 0,1")
    parser.add_argument("--peer-python", default=sys.executable, help="Python of an environment with torch")
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
