"""`seg batch`: shards named by their content, complete or absent, resumed and divided; every bad file is counted."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

import seg
from seg.batch import __main__ as batch
from seg.batch.segment_shard import segment_shard
from seg.batch.shards import parse_share
from seg.checkpoints import CheckpointStore
from seg.classes import make_class_table
from seg.cli import run_command
from seg.config import Config, DataConfig, InferenceConfig, ModelConfig
from seg.errors import UserError
from seg.record.run_dir import create_run_dir
from tiny_model import random_variables

CLASSES = make_class_table(("sky", "road", "tree"))
CONFIG = Config(
    model=ModelConfig(name="unet", num_classes=3, base_width=2, depth=1),
    data=DataConfig(size=(16, 24)),
    inference=InferenceConfig(batch_size=2),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    run_dir = create_run_dir(dataclasses.replace(CONFIG, runs_dir=str(folder)), CLASSES)
    variables = jax.device_put(random_variables(CONFIG.model, CONFIG.data.size))
    CheckpointStore(run_dir.path / "checkpoints").save(1, variables, {"step": 1}, best=True)
    return run_dir.path


@pytest.fixture(scope="module")
def predictor(run):
    return seg.load(run)


@pytest.fixture
def images(tmp_path):
    """Six images, one of them in a sub-folder, and a broken one."""
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    (folder / "deep").mkdir(parents=True)
    for name in ("a0", "a1", "a2", "a3", "a4", "deep/a0"):
        Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def run_batch(run, predictor, tmp_path, monkeypatch):
    """Run the command in this process with a model that is loaded already; return its exit code."""

    def call(*arguments):
        monkeypatch.setattr("seg.inference.predictor.load_predictor", lambda *_: predictor)
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


def test_every_image_has_a_line_and_masks_are_those_of_the_api(run_batch, predictor, images, tmp_path, capsys):
    assert run_batch("--overlay", images) == 2  # one file is broken
    assert "7 images in 4 parts, 0.0 megapixels, 1 unreadable" in capsys.readouterr().err
    results = {row["file"]: row for row in rows(tmp_path)}
    assert [row["file"] for row in rows(tmp_path)] == [str(path) for path in sorted(images.rglob("*.png"))]
    for name in ("a0", "deep/a0"):
        row, labels_hw = results[f"{images}/{name}.png"], predictor.predict(images / f"{name}.png").labels
        assert (row["mask"], row["error"]) == (f"{name}.png", None)
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / row["mask"])), labels_hw)
        assert row["pixels"] == dict(zip(CLASSES.names, np.bincount(labels_hw.ravel(), minlength=3), strict=True))
        assert (tmp_path / "out" / f"{name}_overlay.png").is_file()
    assert "b.png" in results[f"{images}/b.png"]["error"] and results[f"{images}/b.png"]["mask"] is None
    assert run_batch("--overlay", images) == 2  # a second call still counts what is bad
    assert "7 images in 4 parts done already" in capsys.readouterr().err


def test_what_is_complete_is_never_made_again(run_batch, images, tmp_path, monkeypatch):
    run_batch(images)
    first, second, *_ = parts(tmp_path)
    before = {part: part.stat().st_mtime_ns for part in parts(tmp_path) if part != second}
    second.unlink()
    made = []
    monkeypatch.setattr("seg.batch.segment_shard.segment_shard", lambda *a: made.append(a[1].part) or segment_shard(*a))
    run_batch(images)
    assert made == [second]
    assert {part: part.stat().st_mtime_ns for part in parts(tmp_path) if part != second} == before


def test_a_damaged_part_is_made_again(run_batch, images, tmp_path, capsys):
    run_batch(images)
    before = {part: part.read_bytes() for part in parts(tmp_path)}
    _, second, third, _ = parts(tmp_path)
    second.write_bytes(second.read_bytes()[:-9])
    (tmp_path / "out/a0.png").unlink()
    third.write_bytes(b"")
    capsys.readouterr()
    assert run_batch(images) == 2
    assert "in 1 part done already" in capsys.readouterr().err
    assert {part: part.read_bytes() for part in parts(tmp_path)} == before
    assert (tmp_path / "out/a0.png").is_file()


def test_shares_are_disjoint_and_complete(run_batch, images, tmp_path):
    seen = []
    for share in ("0/3", "1/3", "2/3"):
        run_batch(images, "--shard", share)
        seen.append(len(parts(tmp_path)))
    assert seen == [2, 3, 4]
    assert len(rows(tmp_path)) == 7


def test_a_part_of_a_different_batch_is_named_and_replaced_by_request(run_batch, images, tmp_path, capsys):
    run_batch(images)
    stale = parts(tmp_path)[0]
    Image.new("RGB", (24, 16)).save(images / "a0.png")
    assert run_batch(images) == 2
    error = capsys.readouterr().err
    assert stale.name in error and "--replace" in error and stale.exists()
    assert run_batch(images, "--replace") == 2
    assert not stale.exists() and len(rows(tmp_path)) == 7


def test_a_stopped_shard_leaves_no_part(run_batch, images, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("seg.inference.predictor.Predictor.predict_many", stop)
    assert run_batch(images) == 130
    assert "the same command does the rest" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


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
def test_wrong_options_are_named(run_batch, images, capsys, arguments, message):
    assert run_batch(images, *arguments) == 2
    assert message in capsys.readouterr().err


def test_without_ray_its_engine_is_refused_before_the_model_is_loaded(run_batch, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run_batch("x", "--engine", "ray") == 2
    assert capsys.readouterr().err == 'error: --engine ray needs Ray: pip install "unet-transformer-seg[ray]"\n'


@pytest.mark.slow
def test_on_ray_a_killed_job_does_only_the_rest(run, tmp_path):
    pytest.importorskip("ray", reason="needs the extra `ray`")
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for number in range(2000):
        Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(folder / f"{number:04d}.png")
    (folder / "0007.png").write_bytes(b"no image")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "seg.batch", "--engine", "ray", "--run", run, "--out", out, "--shard-size", "50"]
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
    assert "2000 images in 40 parts" in again.stderr and "1 unreadable" in again.stderr
    assert {part: part.stat().st_mtime_ns for part in done} == done
    rows = [json.loads(line) for part in sorted(out.glob("part_*.jsonl")) for line in part.read_text().splitlines()]
    assert len(rows) == 2000 and [row["file"] for row in rows if row["error"]] == [str(folder / "0007.png")]
