"""Growth of time and memory: points are measured once, and drawn; and the scripts for a GPU."""

import dataclasses
import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.config.reader import override_config
from asr.errors import EXIT_OK, EXIT_UNFINISHED, UserError
from asr.inference import recogniser, transcriber
from asr.inference.programs import Spelling
from asr.inference.shapes import Shape
from asr.inference.tuning import PackedWeights
from asr.profiling import random_model as untrained
from asr.profiling.process_memory import peak_bytes

HARNESS = Path(__file__).parent
GPU = Path(__file__).parents[2] / "scripts" / "gpu"
GPU_SCRIPTS = sorted(GPU.glob("*.sh"))

TINY = [
    *("features.num_mels=8", "model.vocab_size=20", "model.encoder.kind=conv", "model.encoder.num_layers=1"),
    *("model.encoder.width=8", "model.encoder.ffn_width=8", "model.decoder.num_layers=0"),
    *("model.decoder.ffn_width=8", "inference.batch_size=2"),
]


@pytest.fixture
def load(monkeypatch):
    """Return a function that loads a script as a module."""
    monkeypatch.syspath_prepend(str(HARNESS))

    def load(name: str):
        folder = GPU if name == "show" else HARNESS
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def point(seconds: float, batch: int) -> dict:
    numbers = {
        "time_s": 0.1 + seconds / 50,
        "above_model_bytes": 10_000_000 * batch,
        "model_bytes": 5,
        "compile_s": 1.0,
    }
    return {"seconds": seconds, "batch": batch, "device_bytes": None, "parameters": 7, **numbers}


@pytest.fixture
def growth(load, monkeypatch):
    """Return the script, whose points are not measured but noted in `growth.asked`."""
    growth = load("measure_growth")
    growth.asked = []

    def measure_point(arguments, sound, batch):
        growth.asked.append((sound.name, batch))
        return point(soundfile.info(sound).duration, batch) | {"environment": {"jax": "x"}}

    monkeypatch.setattr(growth, "measure_point", measure_point)
    return growth


def run(growth, monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["measure_growth.py", *map(str, arguments)])
    return growth.main()


def test_points_that_were_measured_are_not_measured_again(growth, tmp_path, monkeypatch, capsys):
    file, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    few = ("--json", file, "--seconds", 1, 2, "--batch", 2, "--batch-seconds", 1)
    assert run(growth, monkeypatch, *few, "--batches", "--max-minutes", 10) == EXIT_OK
    assert growth.asked == [("1_s.wav", 2), ("2_s.wav", 2)]
    assert run(growth, monkeypatch, *few, "--batches", 1, 2, 4, "--picture", picture) == EXIT_OK
    assert growth.asked[2:] == [("1_s.wav", 1), ("1_s.wav", 4)]
    assert picture.read_bytes()[1:4] == b"PNG"
    shown = capsys.readouterr().out
    assert "| 1 | 1 | 0.12 | 120.00 | 8 | 10 | – |" in shown
    record = json.loads(file.read_text())
    assert len(record["points"]) == 4 and record["environment"] == {"jax": "x"}
    with pytest.raises(UserError, match="measured with .* asked for .* give another --json"):
        run(growth, monkeypatch, *few, "model.dtype=bfloat16")


def test_a_measurement_that_is_out_of_time_goes_on_later(growth, tmp_path, monkeypatch, capsys):
    file = tmp_path / "growth.json"
    assert run(growth, monkeypatch, "--json", file, "--seconds", 1, "--max-minutes", -1) == EXIT_UNFINISHED
    assert growth.asked == [] and "not finished" in capsys.readouterr().out


def test_an_earlier_run_is_drawn_without_measuring(growth, tmp_path, monkeypatch):
    file, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    points = [point(10.0, 8), point(3600.0, 8), point(600.0, 8), point(600.0, 1)]
    file.write_text(json.dumps({"settings": {}, "points": points}))
    assert run(growth, monkeypatch, "--draw", file, "--picture", picture) == EXIT_OK
    assert picture.read_bytes()[1:4] == b"PNG" and not growth.asked
    assert [p["seconds"] for p in growth.longest_series(points, "seconds", "batch")] == [10, 600, 3600]
    assert [p["batch"] for p in growth.longest_series(points, "batch", "seconds")] == [1, 8]
    for wrong in ("{}", "[]", '{"points": [{}]}', '{"points": []}', "no json"):
        file.write_text(wrong)
        with pytest.raises(UserError, match=r"growth\.json: expected"):
            run(growth, monkeypatch, "--draw", file, "--picture", picture)


def test_what_cannot_be_measured_is_refused(growth, tmp_path, monkeypatch):
    for arguments in (("--seconds", 0.5), ("--batches", 0)):
        with pytest.raises(UserError, match="expected sound of at least 1 s and batches of at least 1"):
            run(growth, monkeypatch, "--json", tmp_path / "growth.json", *arguments)
    with pytest.raises(UserError, match="--json FILE"):
        run(growth, monkeypatch)


class FakePrograms:
    """Recognises one token in each sound; records the shapes that it compiled for."""

    def __init__(self, config, tokenizer, cmvn, variables, model):
        self.weights, self.shapes, FakePrograms.made = PackedWeights(config.model, variables), [], self

    def compilations(self, shape, _):
        return [] if shape in self.shapes else [lambda: self.shapes.append(shape)]

    def start(self, wave_bn, wave_lengths_b, _):
        assert Shape(*wave_bn.shape) in self.shapes
        ids_bu, zeros_bu = np.full((len(wave_bn), 1), 3, np.int32), np.zeros((len(wave_bn), 1), np.float32)
        return lambda: Spelling(ids_bu, zeros_bu, zeros_bu, zeros_bu, np.minimum(wave_lengths_b, 1))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_nothing_is_compiled_while_the_time_runs(load, tmp_path, monkeypatch):
    growth, sounds = load("measure_growth"), load("generated_sounds")
    sound, again = tmp_path / "sound.wav", tmp_path / "again.wav"
    text = sounds.write_sound(sound, 70.0)
    assert text.replace(" ", "").isalpha()
    assert sounds.write_sound(again, 70.0) == text and again.read_bytes() == sound.read_bytes()
    wave_n, rate_hz = soundfile.read(sound)
    assert len(wave_n) == 70 * rate_hz and np.abs(wave_n).max() > 0.05
    monkeypatch.setattr(recogniser, "make_programs", FakePrograms)
    config = override_config(growth.SMALL_PARAFORMER, TINY)
    built = untrained.build_untrained_transcriber(config)
    assert built.variables["params"]["predictor"]["bias"] == untrained.FIRING_BIAS

    def build(config):
        config = dataclasses.replace(built.config, inference=config.inference)
        return transcriber.Transcriber(config, built.tokenizer, None, built.variables)

    shapes_before = []
    monkeypatch.setattr(untrained, "build_untrained_transcriber", build)
    monkeypatch.setattr(growth, "reset_peak", lambda: shapes_before.append([*FakePrograms.made.shapes]) or 1000)
    for batch, longest_s in ((16, 60), (2, 2)):  # a few segments; more than are read at once
        settings = [f"inference.batch_size={batch}", f"inference.max_segment_s={longest_s}"]
        point = growth.transcribe(override_config(config, settings), sound)
        assert shapes_before[-1] == FakePrograms.made.shapes
        assert (point["seconds"], point["batch"], point["model_bytes"]) == (70.0, batch, 1000)
        assert point["time_s"] > 0 < point["above_model_bytes"] and point["parameters"] > 100
    few, many = shapes_before
    assert max(few).num_samples < 60 * rate_hz and [shape.num_samples for shape in many] == [rate_hz, 2 * rate_hz]


def test_the_largest_memory_is_watched_from_now_on(load):
    growth = load("measure_growth")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is read from /proc")
    large = np.ones(50_000_000, np.uint8)
    del large
    now = growth.reset_peak()
    assert peak_bytes() < now + 20_000_000
    large = np.ones(50_000_000, np.uint8)
    del large
    assert peak_bytes() > now + 40_000_000


def test_a_data_set_of_generated_sounds_can_be_trained_on(load, tmp_path):
    load("generated_sounds").write_split(tmp_path, "train", num=2, seconds=2.0, seed=0)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for line in lines:
        assert soundfile.info(tmp_path / line["audio_filepath"]).duration == pytest.approx(line["duration"])
        assert 1.0 <= line["duration"] <= 2.0 and line["text"]


# ── the scripts for a GPU ──


@pytest.mark.parametrize("path", GPU_SCRIPTS, ids=lambda path: path.name)
def test_a_shell_can_read_the_scripts(path):
    assert subprocess.run(["sh", "-n", path], capture_output=True, timeout=60).stderr == b""


def test_steps_are_done_once_and_a_piece_ends_in_time(tmp_path):
    begin = f'set -eu; out={tmp_path}; . "{GPU}/pieces.sh"; '
    steps = "do_once a 5 sh -c 'echo said; exit 3'; do_once b 5 true; do_once c 9999 touch c; echo end"

    def call() -> tuple[int, str]:
        done = subprocess.run(["sh", "-c", begin + steps], capture_output=True, text=True, cwd=tmp_path, timeout=60)
        return done.returncode, done.stdout

    code, shown = call()
    assert code == 75 and "a: exit code 3" in shown and "not finished: call this script again" in shown
    assert (tmp_path / "a.log").read_text() == "said\n" and not (tmp_path / "c").exists()
    code, shown = call()  # what may need longer than a piece is alone in one
    assert code == 0 and shown.startswith("c: exit code 0") and (tmp_path / "c").exists()
    assert call() == (0, "end\n")


def test_results_are_shown(load, tmp_path, capsys):
    show = load("show")
    numbers = {"median_s": 0.0125, "p95_s": 0.02, "audio_s_per_s": 800.0, "compile_s": 9.0, "device_bytes": 3e9}
    numbers |= {"planned_bytes": 2e9, "flops_per_s": 4e14, "mfu": 0.4, "input_ratio": 1.03}
    (tmp_path / "train.json").write_text(json.dumps(numbers))
    (tmp_path / "peer.json").write_text(json.dumps({"ratio": 0.5, "ours_s": [0.1, 0.2], "torch_s": [0.2, 0.4]}))
    (tmp_path / "growth.json").write_text(json.dumps({"points": [point(10.0, 8)]}))
    (tmp_path / "train.exit").write_text("0\n")
    (tmp_path / "cudnn.exit").write_text("1\n")
    results, good = show.show_bench(tmp_path)
    shown = capsys.readouterr().out
    assert "| train | 12.50 | 20.00 | 800 | 400.00 | 40.0 | 3.00 | 9.0 |" in shown
    assert "train: 1.030 of the time without the input pipeline" in shown
    assert "ratio 0.50" in shown and "cudnn: failed with exit code 1" in shown and "batch 8: 33 × real time" in shown
    assert good and results["failed"] == {"cudnn": 1}


def test_failed_tests_are_named(load, tmp_path, capsys):
    suite = '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1"><testcase name="a"/>'
    suite += '<testcase name="b"><failure/></testcase><testcase name="c"/></testsuite></testsuites>'
    (tmp_path / "test_x.xml").write_text(suite)
    (tmp_path / "test_y.exit").write_text("124\n")
    numbers, good = load("show").show_tests(tmp_path)
    assert not good and (numbers["passed"], numbers["failures"], numbers["skipped"]) == (1, 1, 1)
    assert numbers["not_passed"] == ["test_x: b"] and numbers["ended_early"] == ["test_y"]
    assert capsys.readouterr().out.startswith("1 passed, 1 failed, 0 errors, 1 skipped")


def test_the_largest_costs_of_a_trace_are_summed_by_name(load, tmp_path):
    named = {"process_name": {1: "/host:CPU", 2: "/device:GPU:0"}}
    threads = {(1, 1): "tf_XLAEigen", (1, 2): "python", (2, 1): "Stream #1(Kernel)", (2, 2): "XLA Ops"}
    events = [{"name": "process_name", "pid": p, "args": {"name": n}} for p, n in named["process_name"].items()]
    events += [{"name": "thread_name", "pid": p, "tid": t, "args": {"name": n}} for (p, t), n in threads.items()]
    for pid, tid, name, dur in (
        (2, 1, "void cutlass::Kernel", 3000),
        (2, 1, "void cutlass::Kernel", 1000),
        (2, 2, "dot", 9),
        (1, 1, "fusion", 5),
        (1, 1, "Pool::Record", 7),
    ):
        args = {"hlo_op": "gemm.3"} if "Kernel" in name else {}
        events.append({"ph": "X", "pid": pid, "tid": tid, "name": name, "dur": dur, "args": args})
    show = load("show")
    with gzip.open(tmp_path / "trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)
    (tmp_path / "operations.json").write_text('{"gemm.3": "decoder/output"}')
    origins = show.read_origins(tmp_path / "trace.json.gz")
    assert show.all_costs(tmp_path / "trace.json.gz", origins) == [
        {"what": "gemm.3", "origin": "decoder/output", "ms": 4.0, "share": 1.0, "times": 2}
    ]
    with gzip.open(tmp_path / "trace.json.gz", "wt") as file:
        json.dump({"traceEvents": [event for event in events if event["pid"] == 1]}, file)
    assert [cost["what"] for cost in show.all_costs(tmp_path / "trace.json.gz", {})] == ["fusion"]


def test_costs_are_summed_by_direction_and_operation(load):
    show = load("show")
    step = "jit(step)/transpose(jvp(Paraformer))/encoder/dot_general", "jit(step)/jvp(Paraformer)/encoder/dot_general"
    costs = [
        {"origin": origin, "share": share}
        for origin, share in zip((*step, step[0], ""), (0.2, 0.3, 0.4, 0.1), strict=True)
    ]
    shares = show.sum_kinds(costs)
    assert list(shares) == ["backward dot_general", "forward dot_general", "rest"]
    assert shares["backward dot_general"] == pytest.approx(0.6)
