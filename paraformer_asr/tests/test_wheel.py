"""The wheel, installed without the checkout: all that the README shows works from an empty folder."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from asr.config import Config, DecoderConfig, EncoderConfig, FeaturesConfig, ModelConfig
from asr.data.cmvn import Cmvn
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.models import abstract_variables
from asr.published.funasr import save_funasr
from recorded_punctuation import write_folder as write_punctuation

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python|yaml)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
TEXTS = ["good morning", "a good day", "good day to you", "more day"]
SMALL = "training.num_epochs=1 model.encoder.num_layers=1 model.decoder.num_layers=1 data.num_buckets=1"
SHORTER = {
    "toy": f"{SMALL} data.toy.num_train=16 data.toy.num_val=4 data.toy.num_test=4",
    "my_config.yaml": f"{SMALL} model.encoder.width=8 model.encoder.ffn_width=8 tokenizer.vocab_size=16",
}
"""By config: settings that make its training short."""

RUNNER = """
import glob, json, shlex, sys
from asr.__main__ import main

for kind, text in json.load(sys.stdin):
    print(text, flush=True)
    if kind == "python":
        exec(compile(text, "README.md", "exec"), {"__name__": "__main__"})
        continue
    name, *words = shlex.split(text, comments=True)
    assert name == "asr"
    sys.argv = [name, *(path for word in words for path in sorted(glob.glob(word)) or [word])]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
"""
"""Runs commands and Python examples one after the other in one process, which imports the libraries once."""


def build_wheel(folder):
    source = folder / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if name.startswith(("src/", "configs/", "pyproject", "README")) and (PROJECT / name).exists():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (PROJECT / name).is_symlink():
                target.symlink_to((PROJECT / name).readlink())
            else:
                target.write_bytes((PROJECT / name).read_bytes())
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "-q", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """An environment with the wheel and the installed libraries of this one, and a folder to work in."""
    folder = tmp_path_factory.mktemp("wheel")
    venv.create(folder / "venv")
    python = folder / "venv/bin/python"
    (place,) = (folder / "venv/lib").glob("python*/site-packages")
    libraries = sysconfig.get_path("purelib")
    (place / "libraries.pth").write_text(f"{libraries}\n")
    pip("--python", python, "install", "--no-deps", "--no-index", build_wheel(folder))
    work = folder / "empty"
    work.mkdir()
    write_inputs(work)
    return python.parent, work


def write_inputs(folder):
    """Write what a user of the README brings along: sounds, a data set, and published models."""
    rng = np.random.default_rng(0)
    for name in ("talk.wav", "corpus/talk.wav", "talks/talk.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, rng.normal(0, 0.1, 16000), 16000)
    (folder / "my_data/sounds").mkdir(parents=True)
    lines = []
    for number, text in enumerate(TEXTS):
        soundfile.write(folder / f"my_data/sounds/{number}.flac", rng.normal(0, 0.1, 16000 + 900 * number), 16000)
        lines.append(f'{{"audio_filepath": "sounds/{number}.flac", "text": "{text}"}}\n')
    for split in ("train", "val", "test"):
        (folder / f"my_data/{split}.jsonl").write_text("".join(lines))
    for name in ("paraformer-large", "paraformer-zh"):
        write_published(folder / name)
    shutil.copytree(PROJECT / "tests/recorded/streaming_tiny", folder / "paraformer-zh-streaming")
    shutil.copytree(PROJECT / "tests/recorded/vad_tiny", folder / "fsmn-vad")
    write_punctuation(folder / "ct-punc")
    (folder / "names.txt").write_text("abc\n")


def write_published(folder):
    """Write a tiny model with random weights as FunASR publishes one."""
    rng, tokenizer = np.random.default_rng(1), Tokenizer(with_special_tokens([*"abcdef"]), "funasr", "keep")
    encoder = EncoderConfig(num_layers=1, width=8, num_heads=2, ffn_width=8, kernel_size=3)
    decoder = DecoderConfig(num_layers=1, num_heads=2, ffn_width=8, kernel_size=3)
    model = ModelConfig(vocab_size=tokenizer.vocab_size, input_dim=16, encoder=encoder, decoder=decoder)
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract_variables(model))
    config = Config(features=FeaturesConfig(num_mels=8, lfr_m=2, lfr_n=2), model=model)
    folder.mkdir()
    save_funasr(folder, config, tokenizer, Cmvn(np.zeros(16, np.float32), np.ones(16, np.float32)), weights)


def run(desk, command, given=""):
    scripts, work = desk
    environment = {"PATH": f"{scripts}:/usr/bin:/bin", "HOME": str(work), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("XLA_", "JAX_"))}
    pipes = {"input": given, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-c", command], cwd=work, env=environment, **pipes)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_wheel_is_what_is_imported(desk):
    origin = run(desk, "python -c 'import asr; print(asr.__file__)'")
    assert Path(origin.strip()).is_relative_to(desk[0].parent)
    assert "toy" in run(desk, "asr configs") and "train" in run(desk, "asr --help")


def test_all_that_the_readme_shows_works_in_an_empty_folder(desk):
    steps = []
    for kind, text in BLOCKS:
        if kind == "yaml":
            name = re.match(r"# (\S+)", text)[1]
            (desk[1] / name).write_text(text, encoding="utf-8")
        elif kind == "python":
            steps.append((kind, text))
        else:
            commands = (line.partition(" #")[0] for line in text.splitlines() if not line.startswith("pip install"))
            steps += [(kind, shortened(command)) for command in commands]
    (desk[1].parent / "runner.py").write_text(RUNNER)
    run(desk, "python ../runner.py", json.dumps(steps))
    for name in ("letters/model.stablehlo", "talk.srt", "subtitles/talk.vtt", "large/weights.safetensors"):
        assert (desk[1] / name).exists(), name


def shortened(command):
    """Return a command of the README; one that trains takes a step or two, one that serves a request."""
    words = shlex.split(command)
    if words[:2] == ["asr", "serve"]:
        return f"{command} --selftest --limit batch_rows=1 --limit batch_lengths=1"
    if words[:2] not in (["asr", "train"], ["asr", "check"]):
        return command
    return f"{command} {SHORTER[words[words.index('--config') + 1]]}"
