"""The scripts that measure growth and run on a GPU: what they keep, print and draw, without measuring anything."""

import argparse
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HARNESS = Path(__file__).parent
GPU = Path(__file__).parents[2] / "scripts" / "gpu"


@pytest.fixture
def growth(monkeypatch):
    monkeypatch.syspath_prepend(HARNESS)
    import measure_growth

    return measure_growth


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that imports a script of the GPU folder."""
    monkeypatch.syspath_prepend(GPU)
    return __import__


def row(kind, n, **changes):
    fields = {"megapixels": n * n / 1e6, "seconds": n / 100, "memory_bytes": 10**6 * n, "device_bytes": None}
    return {"kind": kind, "n": n, "mfu": None} | fields | changes


SETTINGS = {"window": 64, "windows": 4, "dtype": "float32", "overrides": [], "config": ""}
FOUND = {
    "settings": SETTINGS,
    "rows": [
        row("tiles", 512),
        row("tiles", 256, mfu=0.25, device_bytes=2 * 10**9),
        row("train", 2),
        {"kind": "whole", "n": 512, "failed": "out of memory"},
    ],
}


# ── growth ──


def test_what_was_measured_is_drawn_and_printed(growth, tmp_path, monkeypatch, capsys):
    source, picture = tmp_path / "growth.json", tmp_path / "new" / "growth.png"
    source.write_text(json.dumps(FOUND))
    monkeypatch.setattr(growth, "measure_apart", lambda *_: pytest.fail("drawing measures nothing"))
    monkeypatch.setattr(sys, "argv", ["measure_growth", "--draw", str(source), "--picture", str(picture)])
    assert growth.main() == 0
    drawn_hwc = np.asarray(Image.open(picture).convert("RGB"))
    assert drawn_hwc.shape[1] > 2 * drawn_hwc.shape[0] > 400
    assert len(np.unique(drawn_hwc.reshape(-1, 3), axis=0)) > 50
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| tiles | 256 × 256 | 2.560 | 39.062 | 0.256 | 2.00 | 25.0 % |"  # the smaller one first
    assert lines[-2:] == [
        "| whole | 512 × 512 | out of memory | | | | |",
        "| train | batch 2 | 0.020 | 5000.000 | 0.002 |  |  |",
    ]


def test_only_measured_points_are_drawn_by_rising_size(growth):
    from growth.picture import curves, memory

    drawn = curves(FOUND)
    assert [[r["n"] for r in drawn[kind]] for kind in drawn] == [[256, 512], [2]]
    assert [memory(r) for r in drawn["tiles"]] == [2.0, 0.512]


def arguments(path, **changes):
    fields = SETTINGS | {"json": path, "kinds": ["tiles", "train"], "sides": [64, 128], "batches": [1], "config": None}
    return argparse.Namespace(**fields | {"seconds": 0.1, "steps": 1} | changes)


def test_points_that_are_there_are_not_measured_again(growth, tmp_path, monkeypatch, capsys):
    path, asked = tmp_path / "growth.json", []

    def measure_until_stopped(_, kind, n):
        asked.append((kind, n))
        if asked == [("tiles", 64), ("tiles", 128)]:
            raise KeyboardInterrupt
        return row(kind, n, environment={"devices": 1})

    monkeypatch.setattr(growth, "measure_apart", measure_until_stopped)
    with pytest.raises(KeyboardInterrupt):
        growth.measure_all(arguments(path))
    record = growth.measure_all(arguments(path))
    assert asked == [("tiles", 64), ("tiles", 128), ("tiles", 128), ("train", 1)]
    assert record == json.loads(path.read_text())
    assert [(r["kind"], r["n"]) for r in record["rows"]] == [("tiles", 64), ("tiles", 128), ("train", 1)]
    assert record["environment"] == {"devices": 1}
    assert growth.measure_all(arguments(path)) == record
    assert len(asked) == 4


def test_points_of_other_settings_are_not_mixed(growth, tmp_path):
    path = tmp_path / "growth.json"
    path.write_text(json.dumps(FOUND))
    with pytest.raises(SystemExit, match="measured with window 64"):
        growth.measure_all(arguments(path, window=128))
    path.write_text("{}")
    with pytest.raises(SystemExit, match="points of an earlier call"):
        growth.measure_all(arguments(path))


@pytest.mark.parametrize(("code", "outcome"), [(-9, "killed by signal 9"), (0, None)])
def test_a_point_has_a_process_of_its_own(growth, tmp_path, monkeypatch, code, outcome):
    called = []

    def run(command, **_):
        called.append(command)
        if code == 0:
            Path(command[command.index("--json") + 1]).write_text(json.dumps(row("tiles", 64)))
        return subprocess.CompletedProcess(command, code, stderr="")

    monkeypatch.setattr(growth.subprocess, "run", run)
    point = growth.measure_apart(arguments(tmp_path / "x", overrides=["model.depth=2"]), "tiles", 64)
    assert point == (row("tiles", 64) if outcome is None else {"kind": "tiles", "n": 64, "failed": outcome})
    monkeypatch.setattr(sys, "argv", called[0][1:])
    parsed = growth.parse_arguments()
    assert (parsed.point, parsed.overrides, parsed.window) == (["tiles", "64"], ["model.depth=2"], 64)


def test_windows_that_overlap_count_each(growth):
    from growth.point import image_flops, read_config

    small = arguments(None, overrides=["model.base_width=8", "model.depth=1"])
    config = read_config(small, batch=4)
    one = image_flops(config, "tiles", 64)
    assert image_flops(config, "tiles", 128) == 12 * one  # nine windows in three batches of four
    assert image_flops(config, "whole", 128) == pytest.approx(4 * one)


# ── what runs on a GPU ──


@pytest.mark.parametrize("path", sorted(GPU.glob("*.sh")), ids=lambda path: path.name)
def test_a_shell_can_read_the_scripts(path):
    assert subprocess.run(["sh", "-n", path], capture_output=True, timeout=60).stderr == b""


def test_the_test_files_that_are_named_exist():
    text = (GPU / "test.sh").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("    tests ")]
    named = [name for words in lines for name in words[2:]]
    assert len(named) > 20
    assert [name for name in named if not (Path(__file__).parents[1] / f"test_{name}.py").is_file()] == []


def pieces(folder, body):
    """Run pieces in a shell, with a table that only says that it was asked for; return exit code and output."""
    (folder / "python").write_text("#!/bin/sh\necho table\n")
    (folder / "python").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = f"set -eu; out={folder}; . {GPU}/pieces.sh\n{body}\nfinish"
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


def test_a_piece_is_done_once_and_a_failure_is_kept(tmp_path):
    body = 'piece one sh -c "echo x >> $out/one.json"; piece two sh -c "echo reason; exit 3"; '
    body += "piece three touch $out/three.json"
    for _ in range(2):
        code, output = pieces(tmp_path, body)
        assert code == 1 and output.endswith("table\n")
    assert (tmp_path / "one.json").read_text() == "x\n"
    assert (tmp_path / "two.failed").read_text() == "reason\n"
    assert (tmp_path / "three.json").exists()


def test_what_there_is_no_time_for_is_left_to_the_next_call(tmp_path):
    body = "piece one touch $out/one.json; began=$((began - 300)); piece two touch $out/two.json; piece three false"
    code, output = pieces(tmp_path, body)
    assert code == 75
    assert "next is two" in output
    assert not (tmp_path / "two.json").exists()
    body = "SECONDS_IN_ALL=3; piece two sleep 30"
    assert pieces(tmp_path, body)[0] == 1  # it had the whole time for itself
    assert (tmp_path / "two.failed").exists()


def test_the_table_has_all_kinds_of_results(gpu):
    bench = {"median_s": 0.01, "p95_s": 0.02, "compile_s": 3.0, "images_per_s": 200.0, "flops_per_s": 4e14, "mfu": 0.45}
    bench |= {"device_bytes": 10**9, "process_bytes": 1, "fed": {"ratio": 1.04}}
    lines = gpu("table").lines_of(
        {
            "train": bench,
            "peer": {"ratio": 0.8, "environment": {"torch": "2.9"}},
            "sliding": FOUND,
            "profile": {
                "busy": 0.9,
                "rows": [{"name": "fusion", "share": 0.5}],
                "kinds": [{"kind": "backward conv", "share": 0.6}],
            },
            "images": {"images": 3},
        }
    )
    assert "| train | 10.0 | 20.0 | 3 | 200.0 | 400.00 | 45.0 % | 1.00 |; with input 1.040 times as long" in lines
    assert "peer: 0.800 times torch's time (2.9)" in lines
    assert "sliding: tiles 256: 2.560 s, 0.03 megapixels/s, MFU 25.0 %" in lines
    assert "sliding: whole 512: out of memory" in lines
    assert "   50.0 %  fusion" in lines and "  by kind: 60.0 % backward conv" in lines


def test_junit_files_are_counted(gpu, tmp_path):
    counts = 'tests="5" failures="1" errors="0" skipped="2"'
    (tmp_path / "test_ops.xml").write_text(f"<testsuites><testsuite {counts}/></testsuites>")
    assert gpu("table").test_lines(tmp_path)[-1] == "all: 5 tests, 1 failures, 0 errors, 2 skipped"


def test_an_operation_is_listed_without_what_runs_within_it(gpu, tmp_path):
    def event(name, start, duration, tid=1, **args):
        return {"ph": "X", "name": name, "ts": start, "dur": duration, "pid": 1, "tid": tid, "args": args}

    compiled = [
        event("loop", 0, 100, hlo_op="w"),
        event("dot", 10, 60, hlo_op="d"),
        event("dot", 150, 50, 2, hlo_op="d"),
    ]
    (tmp_path / "run").mkdir()
    with gzip.open(tmp_path / "run" / "perfetto_trace.json.gz", "wt") as file:
        json.dump({"traceEvents": [*compiled, event("python", 0, 900), {"ph": "M", "name": "process_name"}]}, file)
    trace = gpu("trace_table")
    events = trace.read_events(tmp_path)
    assert trace.own_times(events) == {"loop": 40, "dot": 110}
    assert trace.busy_share(events) == 0.75
    assert trace.read_origins(tmp_path) == {}
    (tmp_path / "run" / "operations.json").write_text('{"dot": "bottleneck/attention"}')
    assert trace.read_origins(tmp_path) == {"dot": "bottleneck/attention"}


def test_costs_are_summed_by_direction_and_operation(gpu):
    step = "jit(step)/transpose(jvp(UNet))/decoder/conv", "jit(step)/jvp(UNet)/decoder/conv"
    rows = [
        {"origin": origin, "share": share}
        for origin, share in zip((*step, step[0], ""), (0.2, 0.3, 0.4, 0.1), strict=True)
    ]
    shares = {row["kind"]: row["share"] for row in gpu("trace_table").sum_kinds(rows)}
    assert list(shares) == ["backward conv", "forward conv", "rest"]
    assert shares["backward conv"] == pytest.approx(0.6)
