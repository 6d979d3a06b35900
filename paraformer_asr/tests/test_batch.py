"""`asr batch`: shards named by their content, complete or absent, resumed and divided; every bad file is counted."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

import asr
from asr.batch import __main__ as batch
from asr.batch.shards import parse_share
from asr.batch.transcribe_shard import transcribe_shard
from asr.checkpoints import CheckpointStore
from asr.cli import run_command
from asr.config import (
    Config,
    FeaturesConfig,
    InferenceConfig,
)
from asr.errors import UserError
from asr.record.run_dir import create_run_dir
from recorded_punctuation import write_folder
from tiny_model import NUM_MELS, TOKENIZER, random_variables, tiny_model
from tiny_model import RATE_HZ as RATE

RECORDED_TESTS = Path(__file__).parent / "recorded"

CONFIG = Config(
    features=FeaturesConfig(num_mels=NUM_MELS, sample_rate_hz=RATE, cmvn="none"),
    model=tiny_model(),
    inference=InferenceConfig(batch_size=2, max_segment_s=1),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    run_dir = create_run_dir(dataclasses.replace(CONFIG, runs_dir=str(folder)), TOKENIZER, None)
    variables = jax.device_put(random_variables(CONFIG.model))
    CheckpointStore(run_dir.path / "checkpoints").save(1, variables, {"step": 1}, [1.0])
    return run_dir.path


@pytest.fixture(scope="module")
def transcriber(run):
    return asr.load(run)


@pytest.fixture
def sounds(tmp_path):
    """Seven files: five with sound, a broken one, and silence."""
    folder, rng = tmp_path / "sounds", np.random.default_rng(0)
    folder.mkdir()
    for number in range(5):
        soundfile.write(folder / f"a{number}.wav", 0.3 * rng.uniform(-1, 1, 6000), RATE)
    (folder / "b.wav").write_bytes(b"RIFF and nothing")
    soundfile.write(folder / "c.wav", np.zeros(4000), RATE)
    return folder


@pytest.fixture
def run_batch(run, transcriber, tmp_path, monkeypatch):
    """Run the command in this process with a model that is loaded already; return its exit code."""

    def call(*arguments):
        monkeypatch.setattr("asr.inference.transcriber.load_transcriber", lambda *_: transcriber)
        command = ["batch", "--run", str(run), "--out", str(tmp_path / "out"), "--shard-size", "2"]
        monkeypatch.setattr(sys, "argv", [*command, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(batch.main)
        return end.value.code

    return call


def parts(tmp_path):
    return sorted((tmp_path / "out").glob("part_*.jsonl"))


def rows(tmp_path):
    return [json.loads(line) for part in parts(tmp_path) for line in part.read_text().splitlines()]


def test_every_file_has_a_line_and_texts_are_those_of_the_api(run_batch, transcriber, sounds, tmp_path, capsys):
    assert run_batch(sounds) == 2  # one file is broken
    assert "7 files in 4 parts, 4 s of sound, 1 without a word, 1 unreadable" in capsys.readouterr().err
    results = {row["name"]: row for row in rows(tmp_path)}
    assert [row["name"] for row in rows(tmp_path)] == ["a0", "a1", "a2", "a3", "a4", "b", "c"]
    for name in ("a0", "a3"):
        transcript = transcriber.transcribe(sounds / f"{name}.wav")
        assert transcript.text and results[name]["error"] is None
        assert (results[name]["text"], results[name]["duration_s"]) == (transcript.text, 0.75)
        assert [word["word"] for word in results[name]["words"]] == [word.text for word in transcript.words]
    assert "b.wav" in results["b"]["error"] and results["b"]["text"] is None
    assert results["c"]["text"] == "" and "silent" in results["c"]["remark"]
    assert run_batch(sounds) == 2  # a second call still counts what is bad
    assert "7 files in 4 parts done already" in capsys.readouterr().err


def test_signs_hot_words_and_speech_are_those_of_the_api(run_batch, run, sounds, tmp_path):
    vad, punct = RECORDED_TESTS / "vad_tiny", write_folder(tmp_path / "ct-punc")
    (sounds / "b.wav").unlink()
    assert run_batch(sounds) == 0
    plain = {row["name"]: row["text"] for row in rows(tmp_path)}
    word = plain["a0"].split()[0][::-1]
    options = ["--punct", punct, "--hotwords", f"{word} :50", "vad.max_end_silence_ms=500", "--vad", vad]
    assert run_batch(sounds, *options) == 2  # the parts are of other settings
    assert run_batch(sounds, *options, "--replace") == 0
    beside = {"vad": asr.api.load_part("vad", vad, ["max_end_silence_ms=500"]), "punct": punct}
    whole = asr.load(run, **beside)
    for row in rows(tmp_path):
        expected = whole.transcribe(sounds / f"{row['name']}.wav", hotwords=f"{word} :50")
        assert (row["text"], len(row.get("sentences", ()))) == (expected.text, len(expected.sentences))
    assert any(row["text"] and row["text"][-1] in ".?" for row in rows(tmp_path))


def test_segments_that_fail_are_counted(run_batch, transcriber, sounds, tmp_path, capsys, monkeypatch):
    start = transcriber.start

    def failing(waves, hotwords):
        if max(map(np.max, waves)) > 0.5:
            raise RuntimeError("no memory left")
        return start(waves, hotwords)

    monkeypatch.setattr(transcriber, "start", failing)
    wave_n = 0.3 * np.random.default_rng(1).uniform(-1, 1, 30_000)
    wave_n[6000:24_000] = 0
    wave_n[24_000:] *= 3
    for path in sounds.glob("*.wav"):
        path.unlink()
    soundfile.write(sounds / "long.wav", wave_n, RATE)
    assert run_batch(sounds) == 2
    assert "1 file with segments that could not be recognised" in capsys.readouterr().err
    (row,) = rows(tmp_path)
    assert row["error"] is None and row["text"] and len(row["failures"]) == 1


def test_what_is_complete_is_never_made_again(run_batch, sounds, tmp_path, monkeypatch):
    run_batch(sounds)
    first, second, *_ = parts(tmp_path)
    before = {part: part.stat().st_mtime_ns for part in parts(tmp_path)}
    second.unlink()
    made = []
    real = transcribe_shard
    monkeypatch.setattr("asr.batch.transcribe_shard.transcribe_shard", lambda *a: made.append(a[1].part) or real(*a))
    run_batch(sounds)
    assert made == [second]
    assert {p: p.stat().st_mtime_ns for p in parts(tmp_path) if p != second} == {
        part: time_ns for part, time_ns in before.items() if part != second
    }


def test_a_damaged_part_is_made_again(run_batch, sounds, tmp_path, capsys):
    run_batch(sounds)
    before = {part: part.read_bytes() for part in parts(tmp_path)}
    _, second, third, _ = parts(tmp_path)
    second.write_bytes(second.read_bytes()[:-9])
    third.write_bytes(b"")
    capsys.readouterr()
    assert run_batch(sounds) == 2
    assert "in 2 parts done already" in capsys.readouterr().err
    assert {part: part.read_bytes() for part in parts(tmp_path)} == before


def test_shares_are_disjoint_and_complete(run_batch, sounds, tmp_path):
    seen = []
    for share in ("0/3", "1/3", "2/3"):
        run_batch(sounds, "--shard", share)
        seen.append(len(parts(tmp_path)))
    assert seen == [2, 3, 4]
    assert len(rows(tmp_path)) == 7


def test_a_part_of_a_different_batch_is_named_and_replaced_by_request(run_batch, sounds, tmp_path, capsys):
    run_batch(sounds)
    stale = parts(tmp_path)[0]
    soundfile.write(sounds / "a0.wav", np.zeros(4000), RATE)
    assert run_batch(sounds) == 2
    error = capsys.readouterr().err
    assert stale.name in error and "--replace" in error and stale.exists()
    assert run_batch(sounds, "--replace") == 2
    assert not stale.exists() and len(rows(tmp_path)) == 7


def test_a_stopped_shard_leaves_no_part(run_batch, sounds, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("asr.inference.transcriber.Transcriber.recognise_many", stop)
    assert run_batch(sounds) == 130
    assert "the same command does the rest" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("text", ["8/8", "1", "a/b", "-1/2", "0/0", "1/8/2", ""])
def test_an_impossible_share_is_refused(text):
    with pytest.raises(UserError, match="--shard: expected i/n"):
        parse_share(text)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--shard-size", "0"], "--shard-size: expected at least 1"),
        (["--workers", "2"], "--workers goes with --engine ray"),
        (["--shard", "2/2"], "--shard: expected i/n"),
    ],
)
def test_wrong_options_are_named(run_batch, sounds, capsys, arguments, message):
    assert run_batch(sounds, *arguments) == 2
    assert message in capsys.readouterr().err


def test_without_ray_its_engine_is_refused_before_the_model_is_loaded(run_batch, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run_batch("x", "--engine", "ray") == 2
    assert capsys.readouterr().err == 'error: --engine ray needs Ray: pip install "paraformer-asr[ray]"\n'


@pytest.mark.slow
def test_on_ray_a_killed_job_does_only_the_rest(run, tmp_path):
    pytest.importorskip("ray", reason="needs the extra `ray`")
    folder, rng = tmp_path / "sounds", np.random.default_rng(0)
    folder.mkdir()
    for number in range(2000):
        soundfile.write(folder / f"{number:04d}.wav", 0.3 * rng.uniform(-1, 1, 1600), RATE)
    (folder / "0007.wav").write_bytes(b"no sound")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "asr.batch", "--engine", "ray", "--run", run, "--out", out, "--shard-size", "50"]
    job = subprocess.Popen(
        [*command, folder], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while len(list(out.glob("part_*"))) < 5 and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    done = {part: part.stat().st_mtime_ns for part in out.glob("part_*.jsonl")}
    assert 5 <= len(done) < 40
    again = subprocess.run([*command, folder], capture_output=True, text=True, timeout=300)
    assert again.returncode == 2, again.stderr
    assert "2000 files in 40 parts" in again.stderr and "1 unreadable" in again.stderr
    assert {part: part.stat().st_mtime_ns for part in done} == done
    rows = [json.loads(line) for part in sorted(out.glob("part_*.jsonl")) for line in part.read_text().splitlines()]
    assert len(rows) == 2000 and [row["name"] for row in rows if row["error"]] == ["0007"]
