"""The pieces of `faults.py` that need no whole run: moments, phases, damages, judgement, comparison, tables."""

import contextlib
import importlib
import signal
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from asr.checkpoints import CheckpointStore
from asr.files import replace_json
from asr.record.report import COLUMNS
from asr.record.results import append_rows

HARNESS = Path(__file__).parent
PARTS = ("comparison", "damage", "disk", "held_train", "kills", "mistakes", "outcome", "signals", "tiny_run")


def _import_harness():
    """Return the parts by name; nothing of them stays in the list of modules, where others have equal names."""
    sys.path.insert(0, str(HARNESS))
    try:
        return {name: importlib.import_module(f"faulting.{name}") for name in PARTS}
    finally:
        sys.path.remove(str(HARNESS))
        for name in [name for name in sys.modules if name.split(".")[0] == "faulting"]:
            del sys.modules[name]


parts = _import_harness()
comparison, damage, disk, kills = (parts[name] for name in ("comparison", "damage", "disk", "kills"))
outcome, tiny_run = parts["outcome"], parts["tiny_run"]


# --- moments and phases ---


def test_half_of_the_kills_are_aimed_at_saves_and_the_others_are_spread_over_time():
    moments = [kills.draw_moment(0, number) for number in range(200)]
    assert moments == [kills.draw_moment(0, number) for number in range(200)]
    assert moments != [kills.draw_moment(1, number) for number in range(200)]
    counts = {aim: sum(m.aim == aim for m in moments) for aim in ("time", "writing", "manifest")}
    assert counts == {"time": 100, "writing": 50, "manifest": 50}
    fractions = [m.fraction for m in moments if m.aim == "time"]
    assert np.histogram(fractions, 4, (0, 1))[0].min() >= 15
    assert {m.saves_before for m in moments if m.aim != "time"} == {0, 1, 2}


READY = "INFO … step 0 of 40, 4 steps an epoch; 1 device\n"
FOURTH = READY + "DEBUG step 3: loss 1\nDEBUG step 4: loss 1\n"
REPORTED = FOURTH + "INFO epoch 1 (step 4): train loss 1\n"


@pytest.mark.parametrize(
    ("log", "unfinished", "saved", "phase"),
    [
        ("", [], [], "start-up"),
        ("INFO run directory x\n", [], [], "start-up"),
        (READY, [], [], "compilation"),
        (READY + "DEBUG step 1: loss 1\n", [], [], "step"),
        (FOURTH, [], [], "evaluation"),
        (REPORTED, [], [], "save: around"),
        (REPORTED, ["unfinished_step_00000004"], [], "save: writing"),
        (REPORTED, ["unfinished_removal_step_00000002"], [4], "save: removing"),
        (REPORTED, [], [4], "step"),
    ],
)
def test_the_log_tells_the_phase(log, unfinished, saved, phase):
    assert tiny_run.phase_of(log, unfinished, saved, {4, 8}) == phase


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that starts a stand-in for the training, which runs the given Python lines."""
    started = []

    def begin(lines):
        popen = tiny_run.subprocess.Popen
        monkeypatch.setattr(
            tiny_run.subprocess,
            "Popen",
            lambda _, **options: popen([sys.executable, "-S", "-c", f"import time\n{lines}"], **options),
        )
        started.append(tiny_run.Start(tmp_path))
        monkeypatch.undo()
        return started[-1]

    yield begin
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            one.kill()


def test_an_end_is_judged_by_code_traceback_and_first_step(start, tmp_path):
    assert start("print('done')").finish() == 0
    good, bad = start("pass"), start("raise SystemExit(3)")
    assert good.fault(good.finish()) == ""
    assert "exit code 3 instead of 0" in bad.fault(bad.finish()) and bad.fault(3, expected=3) == ""
    loud = start("print('Traceback (most recent call last):')")
    assert "traceback" in loud.fault(loud.finish())
    forgetful = start("pass")
    forgetful.step_before = 8
    (tmp_path / "runs" / "x").mkdir()
    (tmp_path / "runs" / "x" / "environment.json").touch()
    (tmp_path / "runs" / "x" / "train.log").write_text(READY)
    assert "began at step 0 although step 8 was saved" in forgetful.fault(forgetful.finish())


def test_exit_codes_are_those_of_a_shell_and_nobody_is_waited_for_without_end(start):
    sleeper = start("time.sleep(60)")
    sleeper.process.send_signal(signal.SIGTERM)
    assert sleeper.finish() == 143
    began, sleeper = time.monotonic(), start("time.sleep(60)")
    assert not sleeper.wait_for(lambda: False, seconds=0.05) and sleeper.sleep(0.05)
    assert sleeper.finish(seconds=0.05) == -1
    assert time.monotonic() - began < 5


def test_a_kill_waits_for_the_checkpoint_it_is_aimed_at(start, tmp_path):
    """What a start before has left does not count, nor do the saves that are to be left alone."""
    folder = tmp_path / "runs" / "x" / "checkpoints"
    (folder / "unfinished_step_00000001").mkdir(parents=True)
    time.sleep(0.02)
    process = start(
        f"from os import mkdir, rename\nfor i in (2, 3):\n time.sleep(0.1)\n mkdir(f'{folder}/unfinished_step_{{i}}')\n"
        f" time.sleep(0.1)\n if i == 2: rename(f'{folder}/unfinished_step_2', f'{folder}/step_2')\ntime.sleep(60)"
    )
    assert kills.wait_for_moment(process, kills.Moment("writing", 0.0, saves_before=1), span_s=1)
    assert process.unfinished() == ["unfinished_step_3"]
    assert not kills.wait_for_moment(start("pass"), kills.Moment("writing", 0.0), span_s=1)


# --- damages ---


@pytest.mark.parametrize("size", [0, 1, 2, 61])
def test_every_damage_changes_the_file(size, tmp_path):
    content, path = Random(size).randbytes(size), tmp_path / "file"
    changes = damage.damages(size, Random(0))
    assert len({what for what, _ in changes}) == len(changes) == (9 if size else 2)
    for what, change in changes:
        path.write_bytes(content)
        change(path)
        assert not path.is_file() or path.read_bytes() != content, what
        if what.startswith("bit"):
            flipped = int.from_bytes(path.read_bytes()) ^ int.from_bytes(content)
            assert flipped.bit_count() == 1 and path.stat().st_size == size
        if path.is_dir():
            path.rmdir()


def test_only_a_named_file_and_the_checkpoint_before_are_right():
    good, other = {"w": np.ones(2)}, {"w": np.zeros(2)}
    named, silent = "step_2/arrays/d is missing", "step_2 is damaged"

    def fault(arrays, said, alone):
        return damage.judge((arrays, said), "step_2/arrays/d", alone, good)["fault"]

    assert fault(good, named, False) == fault(None, named, True) == ""
    assert fault(good, silent, False) == fault(None, silent, True) == "not named"
    assert fault(other, named, False) == fault(other, named, True) == "accepted"
    assert "although there was another" in fault(None, named, False)
    assert "although it was alone" in fault(good, named, True)


def test_damages_are_counted_by_kind():
    case = {"named": True, "previous": True, "refused": False, "accepted": False}
    cases = [{**case, "damage": f"bit flipped: random byte {i}"} for i in range(2)] + [{**case, "damage": "removed"}]
    assert damage.count(cases) == [
        ["bit flipped: random byte", 2, 2, 2, 0, 0],
        ["removed", 1, 1, 1, 0, 0],
        ["all", 3, 3, 3, 0, 0],
    ]


# --- comparison ---


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes what is compared of a run."""

    def make(name, weight=1.0, loss="1.0", seconds="5", progress=1):
        run = tmp_path / name
        run.mkdir(exist_ok=True)
        state = {"params": {"w": np.float32([weight, np.nan])}, "opt": {"count": np.int32(3)}}
        CheckpointStore(run / "checkpoints").save(3, state, {"loss_sum": progress, "seconds": float(seconds)}, (0.5,))
        row = dict.fromkeys(COLUMNS, "1") | {"run_id": name, "train_loss": loss, "seconds": seconds}
        append_rows(run / "results.csv", [row], COLUMNS)
        replace_json(run / "metrics.json", [{"step": 3, "seconds": float(seconds)}])
        return run

    return make


def test_runs_that_differ_in_times_only_are_equal(make_run):
    assert comparison.differences(make_run("one"), make_run("two", seconds="9")) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weight": np.nextafter(np.float32(1), np.float32(2))}, "params/w: other bits"),
        ({"loss": "1.1"}, "results.csv differs"),
        ({"progress": 2}, "another progress"),
    ],
)
def test_every_other_difference_is_named(make_run, change, named):
    (difference,) = comparison.differences(make_run("one", **change), make_run("two"))
    assert named in difference


def test_arrays_are_compared_by_name_kind_and_bits():
    one = {"a": np.float32([0.0]), "b": np.float32([1]), "c": np.float32([1])}
    other = {"a": np.float32([-0.0]), "b": np.float16([1]), "d": np.float32([1])}
    differing = comparison.compare_arrays(one, other)
    assert [text.split(":")[0] for text in differing] == ["a", "b", "c", "d"]
    assert "float32(1,) and float16(1,)" in differing[1]


# --- the command ---


def test_a_table_has_columns_of_equal_width():
    table = outcome.format_table(["what", "n", "s", "ok"], [["a", 1, 0.5, True], ["longer", 100, 12.0, False]])
    assert table.splitlines() == ["what      n      s  ok", "a         1   0.50  yes", "longer  100  12.00  no"]


def test_a_disk_that_cannot_be_mounted_is_said(tmp_path, monkeypatch):
    failed = disk.subprocess.CompletedProcess([], 32, "", "mount: must be superuser")
    monkeypatch.setattr(disk.subprocess, "run", lambda *_, **__: failed)
    with (
        pytest.raises(outcome.NotPossibleError, match="needs root .*must be superuser"),
        disk.small_disk(tmp_path / "disk"),
    ):
        raise AssertionError("unreachable")


def test_an_end_on_a_full_disk_is_examined(start, tmp_path):
    (tmp_path / "runs" / "x" / "checkpoints" / "step_00000001").mkdir(parents=True)
    process = start("print('error: needs 3 MB')\nraise SystemExit(2)")
    code = process.finish()
    assert disk.examine(process, code, [1], r"needs \d MB")["faults"] == []
    (tmp_path / "runs" / "x" / "checkpoints" / "unfinished_step_00000002").mkdir()
    faults = disk.examine(process, code, [1, 2], "other words")["faults"]
    assert [text[:20] for text in faults] == ["the message does not", "an unfinished checkp", "the checkpoints were"]


# --- mistakes of users ---


def test_what_a_command_makes_of_a_mistake_is_judged(tmp_path):
    (tmp_path / "key.yaml").write_text("training: {num_epoch: 3}\n")
    mistake = parts["mistakes"].Mistake("misspelt key", "train --config {}/key.yaml", (r"key\.yaml:1", "num_epochs"))
    case, faults = parts["mistakes"].try_mistake(tmp_path, mistake)
    assert (case["code"], faults) == (2, [])
    wrong = mistake._replace(said=("never said",), code=0, left=("mask.png",))
    _, faults = parts["mistakes"].try_mistake(tmp_path, wrong)
    assert faults == [
        "exit code 2, expected 0",
        "the message has no 'never said'",
        "written: [], expected ['mask.png']",
    ]


def test_what_a_command_must_not_touch_is_watched(tmp_path):
    (tmp_path / "config.yaml").write_text("name: a\n")
    before = parts["mistakes"].checksums(tmp_path)
    (tmp_path / "lock").touch()
    assert parts["mistakes"].checksums(tmp_path) == before
    (tmp_path / "config.yaml").write_text("name: b\n")
    assert parts["mistakes"].checksums(tmp_path) != before
