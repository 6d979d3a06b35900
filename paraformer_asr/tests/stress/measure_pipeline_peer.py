"""Transcribes long speech with this package and with FunASR, the same three models, in turn on the same core.

    python tests/stress/measure_pipeline_peer.py --speech FOLDER_OF_AN4 --vad FOLDER --peer-python VENV/bin/python

The speech is AN4's test set, joined in a drawn order with pauses of 0.2 to 3 s and white noise 30 dB below it, until it
lasts `--minutes`. `--vad` is an FSMN-VAD in FunASR's layout, which has to find speech; recogniser and punctuation
model have random weights. FunASR puts them together in its `AutoModel`, in VENV. Each process loads the models,
transcribes the first minute, and then the whole, which is timed. FunASR's end of a segment is that of its config, as
here; ours is asked for FunASR's capitals and blanks (`mode=exact`).
"""

import argparse
import difflib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from loading.server import on_core

RATE_HZ = 16000
SIZE = "model.encoder.num_layers=12 model.encoder.width=256 model.encoder.ffn_width=1024 model.encoder.num_heads=4"
SIZE += " model.decoder.num_layers=4 model.decoder.ffn_width=1024 model.decoder.num_heads=4 model.vocab_size=2000"
SIZE += " model.predictor.initial_bias=-1.5"
WHOLE, WARM_UP = "whole.wav", "warm_up.wav"
FOLDERS = {"model": "recogniser", "vad": "vad", "punct": "punctuation"}


def join_speech(root: Path, minutes: float) -> np.ndarray:
    """Return the utterances of AN4's test set with pauses and noise, int16[n]."""
    random, files = np.random.default_rng(0), sorted((root / "wav" / "test").rglob("*.flac"))
    if not files:
        raise SystemExit(f"{root}: expected AN4, with wav/test/SPEAKER/*.flac")
    pieces, room = [], int(60 * minutes * RATE_HZ)
    while room > 0:
        wave_n, _ = soundfile.read(files[random.integers(len(files))], dtype="float32")
        pieces += [np.zeros(int(random.uniform(0.2, 3) * RATE_HZ), np.float32), wave_n]
        room -= len(pieces[-1]) + len(pieces[-2])
    wave_n = np.concatenate(pieces)
    wave_n += 10 ** (-30 / 20) * wave_n.std() * random.standard_normal(len(wave_n)).astype(np.float32)
    return (np.clip(wave_n, -1, 1) * 32767).astype(np.int16)


def save_models(folder: Path) -> None:
    """Write a recogniser and a punctuation model with random weights in FunASR's layout."""
    import jax

    from asr import api
    from asr.config.punctuation import PunctuationConfig
    from asr.config.schema import EncoderConfig
    from asr.models.ct_transformer import CTTransformer
    from asr.profiling.random_model import build_untrained_transcriber
    from asr.published.funasr import save_funasr
    from asr.published.funasr_punctuation import save_funasr_punctuation

    transcriber = build_untrained_transcriber(
        api.load_config("paraformer_large", [*SIZE.split(), "model.dtype=float32", "data.root=."])
    )
    (folder / FOLDERS["model"]).mkdir()
    parts = transcriber.config, transcriber.tokenizer, transcriber.cmvn, transcriber.variables
    save_funasr(folder / FOLDERS["model"], *parts)
    words = ["<unk>", *(token for token in transcriber.tokenizer.tokens if token.isalnum())]
    sizes = EncoderConfig(num_layers=4, width=256, num_heads=8, ffn_width=1024)  # of the published model
    config = PunctuationConfig(vocab_size=len(words), encoder=sizes)
    lengths_b = np.array([4], np.int32)
    words_bt = np.zeros((1, 4), np.int32)
    variables = jax.jit(CTTransformer(config).init)(jax.random.key(0), words_bt, lengths_b, 0 * lengths_b)
    (folder / FOLDERS["punct"]).mkdir()
    save_funasr_punctuation(folder / FOLDERS["punct"], config, words, variables)


def load_here(folder: Path):
    """Return the function that transcribes a file with this package."""
    import asr

    paths = {kind: folder / name for kind, name in FOLDERS.items()}
    punctuator = asr.load(paths["punct"], overrides=["mode=exact"])
    transcriber = asr.load(paths["model"], vad=paths["vad"], punct=punctuator, overrides=["model.dtype=float32"])
    return lambda path: transcriber.transcribe(path).text


def load_there(folder: Path):
    """Return the function that transcribes a file with FunASR."""
    import torch
    from funasr import AutoModel

    torch.set_num_threads(1)
    names = {"model": "model", "vad": "vad_model", "punct": "punc_model"}
    paths = {names[kind]: str(folder / name) for kind, name in FOLDERS.items()}
    model = AutoModel(**paths, device="cpu", ncpu=1, disable_update=True, disable_pbar=True, disable_log=True)
    return lambda path: model.generate(input=str(path), dynamic_silence=False)[0]["text"]


def measure(side: str, folder: Path) -> dict:
    """Return the figures and the text of one side, in this process."""
    began = time.monotonic()
    transcribe = {"here": load_here, "funasr": load_there}[side](folder)
    loaded = time.monotonic()
    transcribe(folder / WARM_UP)
    warm = time.monotonic()
    text = transcribe(folder / WHOLE)
    seconds, sound_s = time.monotonic() - warm, soundfile.info(folder / WHOLE).duration
    return {
        "load_s": round(loaded - began, 1),
        "first_minute_s": round(warm - loaded, 1),
        "whole_s": round(seconds, 1),
        "real_time_factor": round(seconds / sound_s, 5),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "text": text,
    }


def run(side: str, folder: Path, python: str) -> dict:
    """Return the figures of one side, in a process of its own on core 0."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if side == "funasr":
        environment.pop("PYTHONPATH", None)
    command = [*on_core(0), python, __file__, "--side", side, "--folder", str(folder)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure both in turn and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--speech", type=Path, metavar="FOLDER", help="of AN4")
    parser.add_argument("--vad", type=Path, metavar="FOLDER", help="an FSMN-VAD in FunASR's layout")
    parser.add_argument("--peer-python", metavar="PYTHON", help="of the environment that has funasr")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the sound (default: 60)")
    parser.add_argument("--repeats", type=int, default=1, help="of both, in turn (default: 1)")
    parser.add_argument("--side", choices=("here", "funasr"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wave_n = join_speech(arguments.speech, arguments.minutes)
        soundfile.write(folder / WHOLE, wave_n, RATE_HZ)
        soundfile.write(folder / WARM_UP, wave_n[: 60 * RATE_HZ], RATE_HZ)
        save_models(folder)
        (folder / FOLDERS["vad"]).symlink_to(arguments.vad.resolve())
        for _ in range(arguments.repeats):
            here, there = run("here", folder, sys.executable), run("funasr", folder, arguments.peer_python)
            texts = [side.pop("text") for side in (here, there)]
            same = difflib.SequenceMatcher(None, *map(str.split, texts), autojunk=False).ratio()
            print(json.dumps({"here": here, "funasr": there, "same_words": round(same, 5)}))
            print(f"ratio of the real-time factors: {here['real_time_factor'] / there['real_time_factor']:.2f}")


if __name__ == "__main__":
    main()
