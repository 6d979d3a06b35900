"""Times recognition with paraformer-large here, in FunASR (PyTorch) and in ONNX Runtime, in turn on the same cores.

    pip install torch funasr onnx onnxruntime     # needed by the peers alone; may be another environment
    python scripts/bench_large.py --cores 1 2 4 --batch 1 8 [--peer-python PATH] [--json FILE]

All sides hold the same 220 million random weights (a folder as FunASR publishes it, written here and read by
`asr.convert`'s reader) and take the same features of noise, 10 s an utterance. FunASR's eager side computes encoder,
predictor and decoder; ONNX Runtime runs FunASR's own export of them. Ours computes the same and besides each token's
confidence and times: two compiled programs, with the number of tokens fetched in between, as `asr.infer` does.

Each side runs in a process of its own, alternating, so that a machine whose speed drifts does not favour one. The ratio
to ONNX Runtime is taken within each round, and its median is the result. The tokens of all sides are compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDES = ("onnx", "eager", "float32", "bfloat16")
FRAMES, INPUT_WIDTH = 167, 560
"""10 s of sound in stacked frames of 60 ms."""
VOCABULARY = 8404
FIRING_BIAS = -1.0
"""Of the predictor's output: with it the noise holds about four tokens a second, as speech does."""
MIN_REPEATS, MIN_SECONDS = 3, 3.0


def make_folder(folder: Path) -> None:
    """Write paraformer-large with random weights as FunASR publishes a model."""
    import flax.traverse_util
    import numpy as np

    from asr.config import Config, ModelConfig
    from asr.data.frontend import Cmvn
    from asr.data.tokenizer import Tokenizer, with_special_tokens
    from asr.published.funasr import array_shapes, save_funasr

    rng = np.random.default_rng(0)
    config = Config(model=ModelConfig(vocab_size=VOCABULARY, input_dim=INPUT_WIDTH))
    arrays = {}
    for name, shape in array_shapes(config.model).items():
        noise = rng.standard_normal(shape, np.float32)
        if name.endswith("scale"):
            arrays[name] = 1 + 0.1 * noise
        elif name.endswith("bias"):
            arrays[name] = 0.1 * noise
        else:
            arrays[name] = noise / np.float32(np.prod(shape[:-1])) ** 0.5
    arrays["params/predictor/bias"][:] = FIRING_BIAS
    letters = (chr(0x4E00 + number) for number in range(VOCABULARY - 4))
    tokenizer = Tokenizer(with_special_tokens(letters), "funasr")
    cmvn = Cmvn(np.zeros(INPUT_WIDTH, np.float32), np.ones(INPUT_WIDTH, np.float32))
    folder.mkdir(parents=True)
    save_funasr(folder, config, tokenizer, cmvn, flax.traverse_util.unflatten_dict(arrays, sep="/"))


def make_features(batch_size: int):
    """Return float32[b, t, i] noise and int32[b] lengths; the first utterance is the same in every batch."""
    import numpy as np

    features_bti = np.random.default_rng(1).standard_normal((batch_size, FRAMES, INPUT_WIDTH), np.float32)
    return features_bti, np.full(batch_size, FRAMES, np.int32)


def open_ours(folder: Path, dtype: str):
    """Return a function (features, lengths) → (tokens, lengths) that recognises as `asr.infer` does."""
    import jax
    import numpy as np

    from asr.inference.programs import Heard, make_spell
    from asr.inference.shapes import row_counts
    from asr.inference.transcriber import load_parts
    from asr.inference.tuning import PackedWeights, compiler_options, ready_weights
    from asr.models import build_model

    config, _, _, variables = load_parts(folder, overrides=[f"model.dtype={dtype}"])
    config, variables = ready_weights(config, variables)
    weights, options = PackedWeights(config.model, variables), compiler_options(config.model)
    model, rows = build_model(config.model), row_counts(FRAMES, 1)
    spell = jax.jit(weights.reading(make_spell(config)), static_argnums=2)
    listen = jax.jit(weights.reading(lambda variables, *sound: model.apply(variables, *sound, method="encode")))
    compiled = {}

    def once(key, lower):
        if key not in compiled:
            compiled[key] = lower().compile(options)
        return compiled[key]

    def recognise(features_bti, lengths_b):
        size = len(lengths_b)
        sound = weights.arrays, features_bti, lengths_b
        acoustics = once(size, lambda: listen.lower(*sound))(*sound)
        most = int(np.asarray(acoustics.token_count_b).max())
        num_rows = min(count for count in rows if count >= most)
        heard = Heard(acoustics, np.full(size, 10.0, np.float32))
        program = once((size, num_rows), lambda: spell.lower(weights.arrays, heard, num_rows))
        found = jax.device_get(program(weights.arrays, heard))
        return found.ids_bu, found.lengths_b

    return recognise


def open_onnx(folder: Path, num_cores: int):
    """Return the same function for FunASR's export in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_cores, 1
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", options, providers=["CPUExecutionProvider"])

    def recognise(features_bti, lengths_b):
        logits_buv, token_count_b = session.run(None, {"speech": features_bti, "speech_lengths": lengths_b})
        return logits_buv.argmax(-1), token_count_b

    return recognise


def open_eager(folder: Path, num_cores: int):
    """Return the same function for FunASR's own modules."""
    import torch
    from funasr import AutoModel

    settings = {"disable_update": True, "disable_pbar": True, "device": "cpu", "ncpu": num_cores}
    model = AutoModel(model=str(folder), **settings).model.eval()
    torch.set_num_threads(num_cores)

    @torch.inference_mode()
    def recognise(features_bti, lengths_b):
        features, lengths = torch.from_numpy(features_bti), torch.from_numpy(lengths_b)
        encoded, lengths = model.encode(features, lengths)
        embeddings, counts = model.calc_predictor(encoded, lengths)[:2]
        counts = counts.round().long()
        logits = model.cal_decoder_with_predictor(encoded, lengths, embeddings, counts)[0]
        return logits.argmax(-1).numpy(), counts.numpy()

    return recognise


def export_onnx(folder: Path) -> None:
    """Write FunASR's own export; its call means torch's older exporter, which newer versions must be told."""
    import functools

    import torch
    from funasr import AutoModel

    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    model = AutoModel(model=str(folder), disable_update=True, device="cpu")
    model.export(type="onnx", quantize=False, output_dir=str(folder / "onnx"), max_seq_len=512, device="cpu")


def time_side(side: str, folder: Path, num_cores: int, batch_sizes: list[int]) -> dict:
    """Return the median seconds of a batch, and the tokens, for each batch size."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    match side:
        case "onnx":
            recognise = open_onnx(folder, num_cores)
        case "eager":
            recognise = open_eager(folder, num_cores)
        case dtype:
            recognise = open_ours(folder, dtype)
    result = {}
    for size in batch_sizes:
        sound = make_features(size)
        ids_bu, lengths_b = recognise(*sound)
        seconds: list[float] = []
        while len(seconds) < MIN_REPEATS or sum(seconds) < MIN_SECONDS:
            start = time.perf_counter()
            recognise(*sound)
            seconds.append(time.perf_counter() - start)
        tokens = [row[:length].tolist() for row, length in zip(ids_bu, lengths_b, strict=True)]
        result[str(size)] = {"median_s": statistics.median(seconds), "min_s": min(seconds), "tokens": tokens}
    return result


def run(python: str, arguments: list) -> None:
    """Run this script in another process; waiting threads of one library must not slow another."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    command = [python, __file__, *map(str, arguments)]
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
        sys.exit("error: a side could not be timed, see above")


def compare(arguments: argparse.Namespace, folder: Path) -> dict:
    """Run all sides in turn and return every number."""
    if not (folder / "model.pt").exists():
        make_folder(folder)
    if not (folder / "onnx").exists():
        run(arguments.peer_python, ["--export", folder])
    available = len(os.sched_getaffinity(0))
    results: dict[str, dict] = {}
    for num_cores in arguments.cores:
        if num_cores > available:
            print(f"{num_cores} cores: not measured, this machine has {available}")
            continue
        rounds = []
        for _ in range(arguments.rounds):
            numbers = {}
            for side in arguments.sides:
                python = arguments.peer_python if side in ("onnx", "eager") else sys.executable
                file = folder / "numbers.json"
                run(python, ["--time", side, folder, num_cores, *arguments.batch, "--json", file])
                numbers[side] = json.loads(file.read_text())
            rounds.append(numbers)
        results[str(num_cores)] = rounds
        for size in map(str, arguments.batch):
            print(format_row(num_cores, size, rounds), flush=True)
    return results


def format_row(num_cores: int, size: str, rounds: list[dict]) -> str:
    """Return the median of each side's time and of its ratio to ONNX Runtime, and how the tokens compare."""
    parts = []
    for side in rounds[0]:
        median_ms = 1e3 * statistics.median(numbers[side][size]["median_s"] for numbers in rounds)
        ratio = statistics.median(
            numbers[side][size]["median_s"] / numbers["onnx"][size]["median_s"] for numbers in rounds
        )
        parts.append(f"{side} {median_ms:.0f} ms ({ratio:.2f}{differing_tokens(rounds[0], side, size)})")
    return f"{num_cores} cores, batch {size}: " + ", ".join(parts)


def differing_tokens(numbers: dict, side: str, size: str) -> str:
    """Return how many tokens of a side are not those of our float32, edit distance over all utterances."""
    if "float32" not in numbers or side == "float32":
        return ""
    from rapidfuzz.distance import Levenshtein

    pairs = list(zip(numbers["float32"][size]["tokens"], numbers[side][size]["tokens"], strict=True))
    distance, total = sum(Levenshtein.distance(a, b) for a, b in pairs), sum(len(a) for a, _ in pairs)
    return f", {distance} of {total} tokens differ"


def main() -> None:
    """Compare, or do one of the steps in a process of its own."""
    parser = argparse.ArgumentParser(description="Paraformer-large here, in FunASR and in ONNX Runtime.")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--folder", type=Path, help="keep the model here (1.7 GB); default: a temporary folder")
    parser.add_argument("--peer-python", default=sys.executable, help="Python with torch, funasr, onnxruntime")
    parser.add_argument("--json", type=Path, help="write all numbers")
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--time", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        export_onnx(arguments.export)
        return
    if arguments.time:
        side, folder, num_cores, *sizes = arguments.time
        result = time_side(side, Path(folder), int(num_cores), list(map(int, sizes)))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            result = compare(arguments, arguments.folder or Path(temporary) / "paraformer_large")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
