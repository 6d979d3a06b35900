"""Training from the command line: the record, interruption and resuming, devices, and what stops a run."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import seg.diagnose as diagnose_command
import seg.train as train_command
from seg.checkpoints import restore_variables
from seg.cli import run_command

# The constant rate makes runs of any length the same program, which is then compiled once for all of them.
TINY = """
name: tiny
model: {name: unet_transformer, base_width: 4, depth: 1, transformer: {num_layers: 1, num_heads: 2, dropout: 0.1}}
data: {size: [32, 32], num_threads: 1, toy: {num_train: 32, num_val: 8}, augment: {flip: 0.5, scale: [0.8, 1.2]}}
optimizer: {schedule: constant, warmup_fraction: 0}
training: {batch_size: 8, num_epochs: 4, ema_decay: 0.9, num_sample_pictures: 2, log_every_steps: 1}
"""

# As small as a run can be: for tests of how runs stop.
SMALL = """
name: small
model: {name: unet, base_width: 4, depth: 1}
data: {size: [16, 16], num_threads: 1, toy: {num_train: 32, num_val: 8}}
optimizer: {schedule: constant, warmup_fraction: 0}
training: {batch_size: 8, num_epochs: 500, num_sample_pictures: 0, log_every_steps: 1}
"""


def write_config(folder, text):
    path = folder / "config.yaml"
    path.write_text(text + f"runs_dir: {folder / 'runs'}\n")
    return path


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, TINY)


@pytest.fixture
def small_config(tmp_path):
    return write_config(tmp_path, SMALL)


@pytest.fixture(autouse=True, scope="module")
def compile_cache(tmp_path_factory):
    """Every run below compiles the same programs: let the first one do it for all, where no cache is shared already."""
    with pytest.MonkeyPatch.context() as patch:
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
            patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def call(*arguments, code=0, command=train_command):
    """Run a command in this process, which spares the imports of a new one; return what it printed."""
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        pytest.raises(SystemExit) as end,
    ):
        patch.setattr(sys, "argv", [command.__name__, *map(str, arguments)])
        run_command(command.main)
    output = printed.getvalue()
    assert end.value.code == code, output
    assert "Traceback" not in output, output
    return output


def start(*arguments, devices=1):
    command = [sys.executable, "-m", "seg.train", *map(str, arguments)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_job(*arguments):
    """Start two processes of one run; return them, the first one first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", "2")
    return [start(*where, "--process-id", number, *arguments) for number in (0, 1)]


def finish(process, code=0):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def run_dir(config):
    (found,) = (config.parent / "runs").iterdir()
    return found


def rows(run):
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


def wait_for_checkpoint(config, process, step=1):
    for _ in range(12000):
        assert process.poll() is None, process.communicate()[0]
        found = [int(path.parent.name[5:]) for path in config.parent.glob("runs/*/checkpoints/step_*/manifest.json")]
        if max(found, default=0) >= step:
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint appeared")


def last_variables(run):
    return restore_variables(run / "checkpoints", "last")


def assert_equal_trees(one, other):
    import jax

    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def whole_run(compile_cache, tmp_path_factory):
    """A run that nobody interrupted, and what it printed."""
    path = write_config(tmp_path_factory.mktemp("whole"), TINY)
    output = call("--config", path)
    return run_dir(path), output


@pytest.fixture(scope="module")
def small_run(compile_cache, tmp_path_factory):
    """An epoch of the smallest run."""
    path = write_config(tmp_path_factory.mktemp("small"), SMALL)
    call("--config", path, "training.num_epochs=1")
    return run_dir(path)


def test_a_run_leaves_its_full_record(whole_run):
    run, output = whole_run
    assert re.fullmatch(r"\d{8}_\d{6}_tiny", run.name)
    for name in ("config.yaml", "classes.json", "environment.json", "train.log", "curves.png"):
        assert (run / name).stat().st_size > 0, name
    assert len(list((run / "samples").glob("*.png"))) == 4
    table = rows(run)
    assert [int(row["step"]) for row in table] == [4, 8, 12, 16]
    assert table[0]["model_type"] == "unet_transformer"
    assert float(table[-1]["train_loss"]) < float(table[0]["train_loss"])
    assert len(json.loads((run / "metrics.json").read_text())) == 4
    assert "best mean IoU" in output and str(run) in output


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(whole_run, config):
    process = start("--config", config)
    wait_for_checkpoint(config, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    call("--resume", run_dir(config))
    assert_equal_trees(last_variables(run_dir(config)), last_variables(whole_run[0]))
    unequal = ("run_id", "images_per_s", "seconds")
    strip = lambda row: {k: v for k, v in row.items() if k not in unequal}  # noqa: E731
    assert [strip(row) for row in rows(run_dir(config))] == [strip(row) for row in rows(whole_run[0])]


def first_step(run):
    return re.search(r"step 1: loss .*", (run / "train.log").read_text())[0]


def test_a_run_killed_before_its_first_checkpoint_begins_anew(small_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(
        small_run, copy, ignore=shutil.ignore_patterns("checkpoints", "train.log", "results.csv", "metrics.json")
    )
    output = call("--resume", copy, "--max-minutes", "0.0001", code=75)
    assert "starts from the beginning" in output and "stopped at step 1;" in output
    assert first_step(copy) == first_step(small_run) and not (copy / "results.csv").exists()
    call("--resume", copy)
    assert_equal_trees(last_variables(copy), last_variables(small_run))


def test_a_stop_signal_saves_and_says_how_to_go_on(small_config):
    process = start("--config", small_config)
    wait_for_checkpoint(small_config, process)
    process.send_signal(signal.SIGTERM)
    output = finish(process, code=143)
    assert f"--resume {run_dir(small_config)}" in output


def test_a_finished_run_is_not_trained_again(whole_run):
    output = call("--resume", whole_run[0])
    assert "finished" in output
    assert len(rows(whole_run[0])) == 4


def test_a_run_is_resumed_with_its_own_settings_only(whole_run, config):
    output = call("--resume", whole_run[0], "--config", config, "training.num_epochs=9", code=2)
    assert "was started with other settings" in output and "runs_dir" in output


STEPS = re.compile(r"step (\d+): loss ([\d.]+)")


def losses(run):
    return {int(step): float(loss) for step, loss in STEPS.findall((run / "train.log").read_text())}


@pytest.mark.slow
def test_eight_devices_with_the_state_spread_over_four_give_the_loss_of_one(whole_run, config):
    finish(start("--config", config, "mesh.fsdp=4", "training.num_epochs=2", "training.eval_every_epochs=2", devices=8))
    one, eight = losses(whole_run[0]), losses(run_dir(config))
    assert eight == pytest.approx({step: one[step] for step in range(1, 9)}, rel=2e-3)
    assert eight[2] == pytest.approx(one[2], rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one(small_run, small_config):
    """They stop together after a common step, resume from it, and when one is killed the other ends and says so."""
    job = start_job("--config", small_config)
    wait_for_checkpoint(small_config, job[0])
    job[1].send_signal(signal.SIGTERM)
    first, second = (finish(process, code=143) for process in job)
    run = run_dir(small_config)
    assert f"--resume {run}" in first and "epoch" not in second
    stopped = int(re.search(r"stopped at step (\d+);", first)[1])
    one, two = losses(small_run), losses(run)
    assert {step: two[step] for step in one} == pytest.approx(one, rel=1e-4) and len(one) == 4

    job = start_job("--resume", run)
    wait_for_checkpoint(small_config, job[0], step=stopped + 1)
    job[0].send_signal(signal.SIGKILL)
    answer = job[1].communicate(timeout=900)[0]
    assert job[1].returncode == 5, answer
    answer = "\n".join(answer.splitlines()[-2:])  # of the training, or of its parent where jax's runtime was faster
    assert "another process of this run died or became unreachable" in answer
    assert f"python -m seg.train --resume {run}" in answer
    job[0].communicate()
    output = call("--resume", run, "--max-minutes", "0.0001", code=75)  # in one process
    assert int(re.search(r"step (\d+) of", output)[1]) > stopped


def test_a_run_begins_with_another_model_and_resumes_without_it(small_run, tmp_path):
    """A stage is frozen, its statistics too; the resumed run ends with the bits of the one that went through."""
    model = shutil.copytree(small_run, tmp_path / "model")
    sections = [line for line in SMALL.splitlines() if not line.startswith("model")]
    config = write_config(tmp_path, "\n".join([*sections, ""]))
    settings = ("training.num_epochs=2", "optimizer.freeze=[encoder/stage0]", "optimizer.layer_decay=0.5")
    output = call("--config", config, "--init", model, *settings)
    assert f"copied from {model}: 34 of 34 arrays" in output
    assert re.search(
        r"trained: 1,506 of 1,774 parameters; frozen: encoder/stage0 \(6 of 22 arrays\); .*: 0.5 to 1", output
    )
    initial, tuned = restore_variables(model / "checkpoints", "best"), last_variables(run_dir(config))
    for collection in ("params", "batch_stats"):
        assert_equal_trees(tuned[collection]["encoder"]["stage0"], initial[collection]["encoder"]["stage0"])
    assert (tuned["params"]["heads"]["pixel"]["kernel"] != initial["params"]["heads"]["pixel"]["kernel"]).any()

    shutil.rmtree(model)
    shutil.rmtree(run_dir(config) / "checkpoints" / "step_00000008")
    call("--resume", run_dir(config))
    assert_equal_trees(last_variables(run_dir(config)), tuned)


FINDING = re.compile(r"^  (the first module whose output is not|all outputs are|the forward pass is) finite", re.M)


def test_a_loss_that_is_no_number_stops_the_run_at_its_step(small_config):
    wild = ("optimizer.name=sgd", "optimizer.learning_rate=100", "optimizer.clip_norm=0")
    output = call("--config", small_config, *wild, "training.eval_every_epochs=500", code=3)
    step = re.search(r"error: step (\d+): the loss is", output)[1]
    assert "its items: train_000" in output and FINDING.search(output), output

    reproducer = run_dir(small_config) / f"non_finite_step_{int(step):08d}"
    again = call(reproducer, command=diagnose_command)
    assert f"step {step} of {run_dir(small_config)}" in again
    assert [line for line in again.splitlines() if line.startswith("  ")] == [
        line for line in output.split("error: ")[1].split("  State and batch")[0].splitlines() if line.startswith("  ")
    ]


def test_another_model_is_not_restored(whole_run):
    output = call("--resume", whole_run[0], "model.base_width=16", "training.num_epochs=9", code=2)
    assert "error:" in output and "cannot change once a run has started:\n  model." in output
