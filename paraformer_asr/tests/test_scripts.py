"""The scripts run: tutorials, the summary of seeds, and the pieces of a GPU run."""

import dataclasses
import functools
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

import asr
from asr.checkpoints import CheckpointStore
from asr.config import Config, DataConfig, DecoderConfig, EncoderConfig, FeaturesConfig, ModelConfig, ToyConfig
from asr.data.toy_seq2seq import ToySeq2Seq
from asr.models import build_model
from asr.record.run_dir import create_run_dir
from tiny_model import RATE_HZ
from tiny_stream import make_transcriber, random_wave

PROJECT = Path(__file__).parents[1]


def run_script(name: str, *arguments, monkeypatch) -> int:
    """Run a script in this process; return its exit code."""
    path = PROJECT / "scripts" / name
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    return end.value.code


def test_an_utterance_can_be_followed_without_a_run(monkeypatch, capsys):
    assert run_script("tutorial_follow_an_utterance.py", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "token 1 takes           0.00  0.20  0.50  0.30" in shown
    for stage in ("wave", "mel", "stacked", "encoder", "alpha", "running sum", "alignment", "embeddings", "logits"):
        assert re.search(rf"^{stage} +\[1, ", shown, re.M), stage
    assert "The pieces give what the whole gives." in shown


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the directory of a run whose network is as it was initialised."""
    data = DataConfig(toy=ToyConfig(num_train=4, num_val=2, max_words=1))
    sizes = {"num_heads": 2, "ffn_width": 16}
    model = ModelConfig(
        encoder=EncoderConfig(kind="conv", num_layers=1, width=8, **sizes),
        decoder=DecoderConfig(num_layers=1, num_ffn_layers=0, **sizes),
    )
    features = FeaturesConfig(cmvn="none")
    tokenizer = ToySeq2Seq(data, features, "train").tokenizer
    model = dataclasses.replace(model, vocab_size=tokenizer.vocab_size)
    config = Config(features=features, model=model, data=data, runs_dir=str(tmp_path_factory.mktemp("runs")))
    given = np.zeros((1, 8, config.features.input_dim), np.float32), np.array([8])
    tokens = np.zeros((1, 3), np.int32), np.array([3])
    init = jax.jit(functools.partial(build_model(config.model).init, train=False))
    run = create_run_dir(config, tokenizer, None)
    CheckpointStore(run.checkpoints).save(1, init({"params": jax.random.key(0)}, *given, *tokens), {}, [1.0])
    return run.path


def test_the_alignment_of_a_run_is_drawn_and_explained(run, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "a.png"
    assert run_script("tutorial_draw_alignment.py", "--run", run, "--out", picture, monkeypatch=monkeypatch) == 0
    assert picture.read_bytes()[1:4] == b"PNG"
    shown = capsys.readouterr().out
    assert "How to read" in shown and re.search(r"^\d+ tokens from \d+ frames; the tail gave 0\.\d\d", shown, re.M)


def test_a_stream_is_drawn_and_explained(run, tmp_path, monkeypatch, capsys):
    folder, sound, picture = tmp_path / "model", tmp_path / "a.wav", tmp_path / "a.png"
    asr.save(make_transcriber(), folder)
    soundfile.write(sound, random_wave(1.3, seed=3), RATE_HZ)
    monkeypatch.syspath_prepend(PROJECT / "scripts")
    arguments = "--run", folder, sound, "data.channel=0", "--out", picture
    assert run_script("tutorial_draw_stream.py", *arguments, monkeypatch=monkeypatch) == 0
    assert picture.read_bytes()[1:4] == b"PNG"
    shown = capsys.readouterr().out
    assert re.search(r"^step \d+: '.' ends at \d\.\d\d s, shown at \d\.\d\d s", shown, re.M)
    assert re.search(r"at most\s+0\.3[89] s later", shown)
    assert run_script("tutorial_draw_stream.py", "--run", run, monkeypatch=monkeypatch) == 2
    assert "expected a streaming model, found one of the kind paraformer" in capsys.readouterr().err


def test_hot_words_are_scored_beside_a_decoding_without_them(run, monkeypatch, capsys):
    assert run_script("score_hotwords.py", "--run", run, "--weights", 1.5, monkeypatch=monkeypatch) == 0
    head, columns, *rows = capsys.readouterr().out.splitlines()
    number = int(re.fullmatch(r"2 utterances, (\d+) hot words", head)[1])
    assert number > 1 and "precision" in columns  # the words of six texts, all rare
    assert [row.split()[0] for row in rows] == ["none", "1.5"]


def test_without_a_run_the_alignment_script_says_how_to_get_one(run, tmp_path, monkeypatch, capsys):
    for arguments, message in (
        ((), "python -m asr.train --config configs/"),
        (("--run", run, "--index", 2), "--index: expected 0 to 1, found 2"),
        (("--run", run, "--out", tmp_path / "a.txt"), "expected a .png file"),
        (("--run", run, tmp_path / "none.wav"), "none.wav: no such file"),
        (("--run", tmp_path), "config.yaml"),
    ):
        assert run_script("tutorial_draw_alignment.py", *arguments, monkeypatch=monkeypatch) == 2
        assert message in capsys.readouterr().err


def scored_run(folder: Path, words: float, characters: float) -> Path:
    counts = {"interval_95": [words - 0.01, words + 0.01], "reference_length": 10}
    scores = {"words": {"error_rate": words, **counts}, "characters": {"error_rate": characters, **counts}}
    facts = {"checkpoint": "last", "average": 5, "decoder": "cif", "num_utterances": 4}
    (folder / "eval_test").mkdir(parents=True)
    (folder / "eval_test/metrics.json").write_text(json.dumps({**facts, **scores}))
    (folder / "environment.json").write_text(json.dumps({"devices": ["cpu"], "git": None, "packages": {}}))
    return folder


def test_seeds_are_summarized_by_mean_and_deviation(tmp_path, monkeypatch, capsys):
    runs = [scored_run(tmp_path / f"seed{i}", words, 0.02) for i, words in enumerate((0.04, 0.05, 0.06))]
    out = tmp_path / "summary.json"
    assert run_script("summarize_seeds.py", "--out", out, *runs, monkeypatch=monkeypatch) in (None, 0)
    shown = capsys.readouterr().out
    assert "5.00 ± 1.00" in shown and "3.0 … 5.0" in shown
    summary = json.loads(out.read_text())["summary"]
    assert summary["words"] == pytest.approx({"mean": 0.05, "standard_deviation": 0.01})
    assert summary["characters"] == pytest.approx({"mean": 0.02, "standard_deviation": 0.0})
    assert run_script("summarize_seeds.py", "--out", out, tmp_path, monkeypatch=monkeypatch) == 2
    assert "python -m asr.eval --run" in capsys.readouterr().err


FAKE_PYTHON = """\
#!/bin/sh
echo "$*" >> "$PROJECT_UNDER_TEST/calls"
case "$*" in
*"asr.train --config"*)
    for word in "$@"; do case $word in name=*) name=${word#name=} ;; esac; done
    mkdir -p "runs/20250101_000000_$name"
    exit "$(cat "$PROJECT_UNDER_TEST/code")" ;;
*"asr.eval --run"*)
    mkdir -p "$4/eval_test"
    for file in config.yaml train.log results.csv curves.png eval_test/metrics.json eval_test/errors.txt; do
        echo > "$4/$file"
    done ;;
esac
"""


def test_the_gpu_script_goes_on_piece_by_piece(tmp_path, monkeypatch):
    """With a `python` that only notes how it is called."""
    project = tmp_path / "project"
    (project / "scripts/gpu").mkdir(parents=True)
    (project / "bin").mkdir()
    (project / "bin/python").write_text(FAKE_PYTHON)
    (project / "bin/python").chmod(0o755)
    script = shutil.copy(PROJECT / "scripts/gpu/train_an4.sh", project / "scripts/gpu")
    environment = {"PATH": f"{project / 'bin'}:/usr/bin:/bin", "PROJECT_UNDER_TEST": str(project), "SEEDS": "0 1"}

    def call(code: int) -> tuple[int, list[str]]:
        """Return the exit code and the calls, where a new run ends with `code`."""
        (project / "code").write_text(str(code))
        (project / "calls").write_text("")
        arguments = ["sh", script, str(tmp_path), str(tmp_path / "found"), "training.num_epochs=3"]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, (project / "calls").read_text().splitlines()

    code, calls = call(75)
    assert code == 75 and len(calls) == 1
    assert f"--max-minutes 8 data.root={tmp_path} name=an4_full_seed0 seed=0 training.num_epochs=3" in calls[0]
    code, calls = call(3)  # the first seed is resumed and scored, the second one fails
    assert code == 3 and "--resume runs/20250101_000000_an4_full_seed0 --max-minutes 8" in calls[0]
    assert "asr.eval --run runs/20250101_000000_an4_full_seed0 --split test --checkpoint last --average 5" in calls[1]
    assert "seed=1" in calls[2] and len(calls) == 3
    code, calls = call(0)
    assert code == 0 and len(calls) == 3
    assert "scripts/summarize_seeds.py" in calls[2] and calls[2].endswith(
        "_an4_full_seed0 runs/20250101_000000_an4_full_seed1"
    )
    assert (tmp_path / "found/seed1/metrics.json").exists()
    assert subprocess.run(["sh", script], capture_output=True, env=environment).returncode == 2
