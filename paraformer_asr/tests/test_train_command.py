"""Training from the command line: the record, interruption and resuming, devices, and what stops a run."""

import csv
import io
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import soundfile

import asr.diagnose as diagnose_command
import asr.train as train_command
from asr.checkpoints import restore_variables
from asr.cli import run_command
from asr.config.reader import load_config, override_config
from asr.errors import UserError
from asr.record.run_dir import load_run
from asr.training import run as training_run
from asr.training.setup import build_setup

# The seconds of a batch are such that one and four devices make the same plan. The constant rate makes runs of any
# length the same program, which is then compiled once for all of them.
TINY = """
name: tiny
features: {num_mels: 12, lfr_m: 2, lfr_n: 2}
model:
  encoder: {num_layers: 1, width: 16, num_heads: 2, ffn_width: 32, kernel_size: 3}
  decoder: {num_layers: 1, num_ffn_layers: 0, num_heads: 2, ffn_width: 32, kernel_size: 3, dropout: 0.0}
data:
  num_threads: 1
  num_buckets: 2
  toy: {num_train: 32, num_val: 6, num_letters: 4, max_words: 1, max_word_letters: 3}
  augment: {speeds: [0.9, 1.0], gain_db: 3, num_mel_masks: 1, max_mel_width: 2}
optimizer: {learning_rate: 3e-3, schedule: constant, warmup_fraction: 0}
training: {batch_seconds: 9.75, num_epochs: 4, ema_decay: 0.9, num_sample_pictures: 0, log_every_steps: 1, keep_best: 2}
"""

# As small as a run can be, with one program to compile: for tests of how runs stop. Its batches of 8 utterances are the
# same on one device and on two.
SMALL = """
name: small
features: {num_mels: 12, lfr_m: 2, lfr_n: 2}
model:
  sampling_ratio: 0
  encoder: {kind: conv, num_layers: 1, width: 16, num_heads: 2, ffn_width: 32, kernel_size: 3}
  decoder: {num_layers: 0, num_ffn_layers: 1, num_heads: 2, ffn_width: 32, kernel_size: 3}
data:
  num_threads: 1
  num_buckets: 1
  toy: {num_train: 32, num_val: 6, num_letters: 4, max_words: 1, max_word_letters: 3}
optimizer: {learning_rate: 3e-3, schedule: constant, warmup_fraction: 0}
training: {batch_seconds: 8.5, num_epochs: 500, num_sample_pictures: 0, log_every_steps: 1}
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


@pytest.fixture
def call(capsys):
    """Return a function that runs a command in this process, and returns what it printed."""

    def run(*arguments, code=0, command=train_command):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(sys, "argv", [command.__name__, *map(str, arguments)])
            run_command(command.main)
        output = "".join(capsys.readouterr())
        assert end.value.code == code, output
        assert "Traceback" not in output, output
        return output

    return run


def start(*arguments, devices=1):
    command = [sys.executable, "-m", "asr.train", *map(str, arguments)]
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
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def whole_run(compile_cache, tmp_path_factory):
    """A run that nobody interrupted, and its messages with those of the compiler."""
    path = write_config(tmp_path_factory.mktemp("whole"), TINY)
    handler = logging.StreamHandler(io.StringIO())
    jax.clear_caches()  # as in a process of its own
    with pytest.MonkeyPatch.context() as patch:
        for name in ("asr", "jax"):
            logger = logging.getLogger(name)
            patch.setattr(logger, "handlers", [*logger.handlers, handler])
        jax.config.update("jax_log_compiles", True)
        assert training_run.train(load_config(path, ["training.num_sample_pictures=1"])).finished
        jax.config.update("jax_log_compiles", False)
    return run_dir(path), handler.stream.getvalue()


# --- the record ---


def test_a_run_leaves_its_full_record(whole_run):
    run, output = whole_run
    assert re.fullmatch(r"\d{8}_\d{6}_tiny", run.name)
    names = ("config.yaml", "tokenizer.json", "cmvn.txt", "environment.json", "train.log", "curves.png")
    for name in names:
        assert (run / name).stat().st_size > 0, name
    assert len(list((run / "samples").glob("*.png"))) == len(list((run / "samples").glob("*.txt"))) == 4
    table = rows(run)
    assert [int(row["step"]) for row in table] == [3, 6, 9, 12]
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    assert table[0]["model_type"] == "paraformer"
    assert float(table[-1]["train_loss"]) < float(table[0]["train_loss"])
    assert float(table[-1]["quantity_error"]) < float(table[0]["quantity_error"])
    assert all(0 < float(row["audio_s_per_s"]) < 1e6 for row in table)
    assert len(json.loads((run / "metrics.json").read_text())) == 4
    assert "best WER" in output and str(run) in output


def test_the_config_is_written_with_the_widths_that_the_data_decide(whole_run):
    config, tokenizer, cmvn = load_run(whole_run[0])
    assert config.model.vocab_size == tokenizer.vocab_size == 4 + 4  # one word at a time: no space
    assert config.model.input_dim == len(cmvn.shift) == 24


def test_the_checkpoints_of_the_lowest_error_rates_are_kept_and_have_a_mean(whole_run):
    run, _ = whole_run
    table = [(float(row["wer"]), float(row["val_loss"]), int(row["step"])) for row in rows(run)]
    best = {step for _, _, step in sorted(table)[:2]}
    kept = {int(path.name[5:]) for path in (run / "checkpoints").iterdir()}
    assert kept == best | {9, 12}
    first, second = (restore_variables(run / "checkpoints", step)["params"] for step in sorted(best))
    mean = restore_variables(run / "checkpoints", "best", 2)["params"]
    kernel = lambda params: np.asarray(params["predictor"]["conv_kernel"])  # noqa: E731
    np.testing.assert_allclose(kernel(mean), (kernel(first) + kernel(second)) / 2, rtol=1e-6)


def test_nothing_is_compiled_after_each_shape_was_seen(whole_run):
    output = whole_run[1]
    shapes = re.search(r"batches of (.*);", output)[1].count("×")
    assert output.count("Finished XLA compilation of jit(train_step)") == shapes == 2
    assert output.count("Finished XLA compilation of jit(eval_step)") == 1  # the validation split has one length
    assert "XLA compilation" not in output[output.index("epoch 2 (step") :]


# --- interruption and resuming ---


@pytest.mark.slow
def test_a_run_in_pieces_and_killed_ends_with_the_same_bits(whole_run, config, call):
    output = call("--config", config, "--max-minutes", "0.0001", code=75)
    assert "stopped at step 1;" in output and f"--resume {run_dir(config)}" in output  # within an epoch
    process = start("--resume", run_dir(config))
    wait_for_checkpoint(config, process, step=3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    call("--resume", run_dir(config))
    assert_equal_trees(last_variables(run_dir(config)), last_variables(whole_run[0]))
    unequal = ("run_id", "audio_s_per_s", "seconds")
    strip = lambda row: {k: v for k, v in row.items() if k not in unequal}  # noqa: E731
    assert [strip(row) for row in rows(run_dir(config))] == [strip(row) for row in rows(whole_run[0])]


def test_a_resumed_run_keeps_its_own_tokens_and_normalisation(whole_run, config, call):
    """Data that has changed since must not change what a token number or a feature means."""
    copy = config.parent / "copy"
    shutil.copytree(whole_run[0], copy)
    shutil.rmtree(copy / "checkpoints" / "step_00000012")
    changed = ("--resume", copy, "data.toy.num_letters=3", "--max-minutes", "0.0001")
    assert "train split: generated with num_letters 3 instead of 4" in call(*changed, code=2)
    output = call(*changed, "--allow-changed", "data", code=75)
    assert "computing mean" not in output and "and 8 tokens" in output and "step 9 of 12" in output
    for name in ("tokenizer.json", "cmvn.txt"):
        assert (copy / name).read_bytes() == (whole_run[0] / name).read_bytes()


def first_step(run):
    return re.search(r"step 1: loss .*", (run / "train.log").read_text())[0]


def test_a_run_killed_before_its_first_checkpoint_begins_anew(whole_run, config, call):
    copy = config.parent / "copy"
    shutil.copytree(
        whole_run[0], copy, ignore=shutil.ignore_patterns("checkpoints", "train.log", "results.csv", "metrics.json")
    )
    output = call("--resume", copy, "--max-minutes", "0.0001", code=75)
    assert "starts from the beginning" in output and "stopped at step 1;" in output
    assert first_step(copy) == first_step(whole_run[0]) and not (copy / "results.csv").exists()


def test_a_stop_signal_saves_and_says_how_to_go_on(small_config):
    process = start("--config", small_config)
    wait_for_checkpoint(small_config, process)
    process.send_signal(signal.SIGTERM)
    output = finish(process, code=143)
    assert f"--resume {run_dir(small_config)}" in output


def test_a_finished_run_is_not_trained_again(whole_run, call):
    output = call("--resume", whole_run[0])
    assert "finished" in output
    assert len(rows(whole_run[0])) == 4


def test_a_run_is_resumed_with_its_own_settings_only(whole_run, config, call):
    output = call("--resume", whole_run[0], "--config", config, "training.num_epochs=9", code=2)
    assert "was started with other settings" in output and "runs_dir" in output
    assert "vocab_size" not in output  # the config leaves it to the data


def test_another_model_is_not_restored(whole_run, call):
    output = call("--resume", whole_run[0], "model.encoder.width=32", "training.num_epochs=9", code=2)
    assert "error:" in output and "cannot change once a run has started:\n  model." in output


# --- devices, and what stops a run ---


@pytest.mark.slow
def test_four_devices_with_the_state_spread_over_two_give_the_loss_of_one(whole_run, config):
    output = finish(start("--config", config, "--max-minutes", "0.0001", "mesh.fsdp=2", devices=4), code=75)
    shapes = re.compile(r"batches of .*;")
    assert shapes.search(output)[0] == shapes.search(whole_run[1])[0], "the plans differ: choose another batch_seconds"
    step = re.compile(r"step 1: loss ([\d.]+).*gradient norm ([\d.]+)")
    one, four = (step.search((run / "train.log").read_text()) for run in (whole_run[0], run_dir(config)))
    assert [float(x) for x in four.groups()] == pytest.approx([float(x) for x in one.groups()], rel=3e-4)


@pytest.mark.slow
def test_two_processes_train_as_one(small_config, tmp_path, call):
    """They stop together after a common step, resume from it, and when one is killed the other ends and says so."""
    job = start_job("--config", small_config)
    wait_for_checkpoint(small_config, job[0])
    job[1].send_signal(signal.SIGTERM)
    first, second = (finish(process, code=143) for process in job)
    run = run_dir(small_config)
    assert f"--resume {run}" in first and "epoch" not in second
    stopped = int(re.search(r"stopped at step (\d+);", first)[1])
    alone = tmp_path / "alone"
    call("--config", small_config, f"runs_dir={alone}", "--max-minutes", "0.0001", code=75)
    assert first_step(run) == first_step(next(alone.iterdir()))

    job = start_job("--resume", run)
    wait_for_checkpoint(small_config, job[0], step=stopped + 1)
    job[0].send_signal(signal.SIGKILL)
    answer = job[1].communicate(timeout=900)[0]
    assert job[1].returncode == 5, answer
    answer = "\n".join(answer.splitlines()[-2:])  # of the training, or of its parent where jax's runtime was faster
    assert "another process of this run died or became unreachable" in answer
    assert f"python -m asr.train --resume {run}" in answer
    job[0].communicate()
    output = call("--resume", run, "--max-minutes", "0.0001", code=75)  # in one process
    assert int(re.search(r"step (\d+) of", output)[1]) > stopped


def test_a_run_begins_with_another_model_and_resumes_without_it(whole_run, tmp_path, call):
    """Other letters, a frozen encoder; the resumed run ends with the bits of the one that went through."""
    model = shutil.copytree(whole_run[0], tmp_path / "model")
    config = write_config(tmp_path, re.sub(r"features:.*\nmodel:\n(  .*\n)*", "", TINY))
    settings = ("training.num_epochs=2", "optimizer.freeze=[encoder]", "optimizer.rate_factors={decoder/output: 4}")
    settings += ("data.toy.num_letters=5", "tokenizer.kind=characters", "data.num_buckets=1")
    output = call("--config", config, "--init", model, *settings)
    assert f"copied from {model}: 39 of 42 arrays" in output
    new = r"new: params/decoder/embedding float32\[9, 16\], .*: the vocabulary has 9 tokens, that of .*model 8"
    assert re.search(new, output) and re.search(r"frozen: encoder \(15 of 42 arrays\); .*: 1 to 4", output)
    initial, tuned = restore_variables(model / "checkpoints", "best"), last_variables(run_dir(config))
    assert_equal_trees(tuned["params"]["encoder"], initial["params"]["encoder"])
    assert (tuned["params"]["predictor"]["kernel"] != initial["params"]["predictor"]["kernel"]).any()

    shutil.rmtree(model)
    shutil.rmtree(max((run_dir(config) / "checkpoints").iterdir()))
    call("--resume", run_dir(config))
    assert_equal_trees(last_variables(run_dir(config)), tuned)


def test_a_loss_that_is_no_number_stops_the_run_at_its_step(small_config, call):
    """Each step multiplies the kernels by 1 − 100 · 10, until they overflow."""
    wild = ("optimizer.learning_rate=100", "optimizer.weight_decay=10", "training.num_epochs=20")
    output = call("--config", small_config, *wild, "training.eval_every_epochs=20", code=3)
    step = re.search(r"error: step (\d+): the loss is", output)[1]
    assert "its items: train_000" in output
    assert "  the forward pass is finite, the gradient is not: of encoder/" in output

    reproducer = run_dir(small_config) / f"non_finite_step_{int(step):08d}"
    again = call(reproducer, command=diagnose_command)
    assert f"step {step} of {run_dir(small_config)}" in again
    assert [line for line in again.splitlines() if line.startswith("  ")] == [
        line for line in output.split("error: ")[1].split("  State and batch")[0].splitlines() if line.startswith("  ")
    ]


# --- data that cannot be trained on is refused before there is a run directory ---


def write_manifest(folder, lines):
    soundfile.write(folder / "a.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "b.wav", np.zeros(16000), 16000)
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = f"dataset: jsonl, root: {folder}, train_split: train.jsonl, val_split: train.jsonl"
    (folder / "config.yaml").write_text(f"data: {{{data}}}\nruns_dir: {folder / 'runs'}\n")
    return folder / "config.yaml"


GOOD = ('{"audio_filepath": "a.wav", "text": "ab", "duration": 1.0}', '{"audio_filepath": "b.wav", "text": "b"}')


@pytest.mark.parametrize(
    ("lines", "settings", "found"),
    [
        ((GOOD[0], "not json"), (), "train.jsonl:2"),
        ((GOOD[0], GOOD[1].replace("b.wav", "c.wav")), (), "train.jsonl:2"),
        ((GOOD[0], GOOD[1].replace('"b"', '"aß"')), ("tokenizer.kind=file",), "train.jsonl:2: 'ß'"),
        (GOOD, ("model.vocab_size=99",), "model.vocab_size is 99, but the tokenizer has 6 tokens"),
        (GOOD, ("data.min_seconds=2",), "no training utterance is left"),
        (GOOD, ("features.cmvn=file", "features.cmvn_file=nowhere"), "nowhere: cannot be read"),
        (GOOD, ("name=a/b",), "name: expected"),
    ],
)
def test_what_is_wrong_with_the_data_is_named_with_its_line(tmp_path, monkeypatch, lines, settings, found):
    monkeypatch.setattr(training_run, "Training", None)  # nothing is trained
    (tmp_path / "tokens.txt").write_text("a\nb\n")
    settings += (f"tokenizer.file={tmp_path / 'tokens.txt'}",) if "tokenizer.kind=file" in settings else ()
    config = load_config(write_manifest(tmp_path, lines), settings)
    with pytest.raises(UserError) as error:
        training_run.train(config)
    assert found in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_characters_that_only_validation_has_are_a_warning(tmp_path, caplog):
    config = load_config(write_manifest(tmp_path, GOOD))
    (tmp_path / "val.jsonl").write_text(GOOD[1].replace('"b"', '"bß"'), encoding="utf-8")
    config = override_config(config, ["data.val_split=val.jsonl"])
    setup = build_setup(config)
    assert setup.tokenizer.vocab_size == 6
    assert "which count as errors: 1\n" in caplog.text and "val.jsonl:1: 'ß'" in caplog.text
