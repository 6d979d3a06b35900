"""Times recognition with paraformer-large here, in FunASR (PyTorch) and in ONNX Runtime, in turn on the same cores.

    pip install torch funasr onnx onnxruntime     # needed by the peers alone; may be another environment
    python tests/stress/bench_large.py --cores 1 2 4 --batch 1 8 [--peer-python PATH] [--json FILE]

All sides hold the same 220 million random weights (a folder as FunASR publishes it, written here and read by
`asr.convert`'s reader) and take the same features of noise, 10 s an utterance. FunASR's eager side computes encoder,
predictor and decoder; ONNX Runtime runs FunASR's own export of them, in float32 and in int8. Ours computes the same and
besides each token's confidence and times: two compiled programs, with the number of tokens fetched in between, as
`asr.infer` does.

Each side lives in a process of its own. In each round every side recognises once, with a pause before in which waiting
threads go to sleep, so a machine whose speed drifts favours none. The ratio to ONNX Runtime is taken within each round;
its median is the result, the quartiles say how far to trust it. The tokens of all sides are compared.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDES = ("onnx", "onnx_int8", "eager", "float32", "bfloat16", "int8")
PEERS = ("onnx", "onnx_int8", "eager")
FRAMES, INPUT_WIDTH = 167, 560
"""10 s of sound in stacked frames of 60 ms."""
VOCABULARY = 8404
FIRING_BIAS = -1.0
"""Of the predictor's output: with it the noise holds about four tokens a second, as speech does."""
PAUSE_S = 0.15


def make_folder(folder: Path) -> None:
    """Write paraformer-large with random weights as FunASR publishes a model."""
    import flax.traverse_util
    import numpy as np

    from asr.config import Config, ModelConfig
    from asr.data.frontend import Cmvn
    from asr.data.text.tokenizer import Tokenizer, with_special_tokens
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

    from asr.inference.loading import load_parts
    from asr.inference.programs import Heard, make_spell
    from asr.inference.shapes import row_counts
    from asr.inference.tuning import PackedWeights, ready_weights
    from asr.models import build_model

    config, _, _, variables = load_parts(folder, overrides=[f"inference.dtype={dtype}"])
    config, variables = ready_weights(config, variables)
    weights = PackedWeights(config.model, variables)
    model, rows = build_model(config.model), row_counts(FRAMES, 1)
    spell = jax.jit(weights.reading(make_spell(config)), static_argnums=2)
    listen = jax.jit(weights.reading(lambda variables, *sound: model.apply(variables, *sound, method="encode")))
    compiled = {}

    def once(key, lower):
        if key not in compiled:
            compiled[key] = lower().compile(weights.options)
        return compiled[key]

    def recognise(features_bti, lengths_b):
        size = len(lengths_b)
        sound = weights.arrays, features_bti, lengths_b
        acoustics = once(size, lambda: listen.lower(*sound))(*sound)
        most = int(np.asarray(acoustics.token_count_b).max())
        num_rows = min(count for count in rows if count >= most)
        heard = Heard(acoustics, np.full(size, 10.0, np.float32))
        program = once((size, num_rows), lambda: spell.lower(weights.arrays, heard, num_rows))
        hypotheses = jax.device_get(program(weights.arrays, heard))
        return hypotheses.ids_bu, hypotheses.lengths_b

    return recognise


def open_onnx(folder: Path, num_cores: int, name: str):
    """Return the same function for FunASR's export, a file of this name, in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_cores, 1
    session = onnxruntime.InferenceSession(folder / "onnx" / name, options, providers=["CPUExecutionProvider"])

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
    """Write FunASR's own export, by torch's older exporter, which newer versions use only on request."""
    import functools

    import torch
    from funasr import AutoModel

    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    model = AutoModel(model=str(folder), disable_update=True, device="cpu")
    model.export(type="onnx", quantize=True, output_dir=str(folder / "onnx"), max_seq_len=512, device="cpu")


class Side:
    """One side in its own process, which recognises on request.

    Attributes:
        seconds: of each call, by batch size.
        tokens: of each utterance, by batch size.
    """

    def __init__(self, name: str, python: str, folder: Path, num_cores: int):
        command = [python, __file__, "--serve", name, str(folder), str(num_cores)]
        # Waiting threads of one library must not slow another.
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds: dict[int, list[float]] = {}
        self.tokens: dict[int, list] = {}

    def prepare(self, size: int) -> None:
        """Compile and warm up for a batch size."""
        for _ in range(2):
            self.tokens[size] = self._call(size)["tokens"]
        self.seconds[size] = []

    def time(self, size: int) -> None:
        """Recognise a batch once more."""
        time.sleep(PAUSE_S)
        self.seconds[size].append(self._call(size)["seconds"])

    def end(self) -> None:
        """Let the process end."""
        self._process.stdin.close()
        self._process.wait()

    def _call(self, size: int) -> dict:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and no answer comes
            self._process.stdin.write(f"{size}\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit("error: a side could not be timed, see above")
        return json.loads(answer)


def serve(name: str, folder: Path, num_cores: int) -> None:
    """Recognise a batch for each size read, and write a line of JSON."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the libraries talk
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    match name:
        case "onnx":
            recognise = open_onnx(folder, num_cores, "model.onnx")
        case "onnx_int8":
            recognise = open_onnx(folder, num_cores, "model_quant.onnx")
        case "eager":
            recognise = open_eager(folder, num_cores)
        case dtype:
            recognise = open_ours(folder, dtype)
    for line in sys.stdin:
        sound = make_features(int(line))
        start = time.perf_counter()
        ids_bu, lengths_b = recognise(*sound)
        seconds = time.perf_counter() - start
        tokens = [row[:length].tolist() for row, length in zip(ids_bu, lengths_b, strict=True)]
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


def compare(arguments: argparse.Namespace, folder: Path) -> dict:
    """Run all sides in turn and return the seconds of each call by cores, batch size and side."""
    if not (folder / "model.pt").exists():
        make_folder(folder)
    if not (folder / "onnx").exists():
        command = [arguments.peer_python, __file__, "--export", folder]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            sys.exit("error: FunASR's export failed, see above")
    available = len(os.sched_getaffinity(0))
    results: dict[str, dict] = {}
    for num_cores in arguments.cores:
        if num_cores > available:
            print(f"{num_cores} cores: not measured, this machine has {available}")
            continue
        pythons = dict.fromkeys(PEERS, arguments.peer_python)
        sides = {name: Side(name, pythons.get(name, sys.executable), folder, num_cores) for name in arguments.sides}
        for size in arguments.batch:
            for side in sides.values():
                side.prepare(size)
            for _ in range(arguments.rounds):
                for side in sides.values():
                    side.time(size)
            print(format_row(num_cores, size, sides), flush=True)
            results.setdefault(str(num_cores), {})[str(size)] = {name: sides[name].seconds[size] for name in sides}
        for side in sides.values():
            side.end()
    return results


def format_row(num_cores: int, size: int, sides: dict[str, Side]) -> str:
    """Return the median of each side's time and of its ratio to ONNX Runtime, and how the tokens compare."""
    parts = []
    for name, side in sides.items():
        seconds = side.seconds[size]
        text = f"{name} {1e3 * statistics.median(seconds):.0f} ms"
        if name != "onnx" and "onnx" in sides:
            ratios = [mine / peers for mine, peers in zip(seconds, sides["onnx"].seconds[size], strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            text += f" ({median:.2f}, quartiles {low:.2f} and {high:.2f})"
        parts.append(text + differing_tokens(sides, name, size))
    return f"{num_cores} cores, batch {size}: " + ", ".join(parts)


def differing_tokens(sides: dict[str, Side], name: str, size: int) -> str:
    """Return how many tokens of a side are not those of our float32, edit distance over all utterances."""
    if "float32" not in sides or name == "float32":
        return ""
    from rapidfuzz.distance import Levenshtein

    pairs = list(zip(sides["float32"].tokens[size], sides[name].tokens[size], strict=True))
    distance, total = sum(Levenshtein.distance(a, b) for a, b in pairs), sum(len(a) for a, _ in pairs)
    return f", {distance} of {total} tokens differ"


def main() -> None:
    """Compare, or do one of the steps in a process of its own."""
    parser = argparse.ArgumentParser(description="Paraformer-large here, in FunASR and in ONNX Runtime.")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=20, help="calls of each side; at least 2")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--folder", type=Path, help="keep the model here (2 GB); default: a temporary folder")
    parser.add_argument("--peer-python", default=sys.executable, help="Python with torch, funasr, onnxruntime")
    parser.add_argument("--json", type=Path, help="write all numbers")
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: quartiles need at least 2")
    if arguments.export:
        export_onnx(arguments.export)
        return
    if arguments.serve:
        name, folder, num_cores = arguments.serve
        serve(name, Path(folder), int(num_cores))
        return
    with tempfile.TemporaryDirectory() as temporary:
        result = compare(arguments, arguments.folder or Path(temporary) / "paraformer_large")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
