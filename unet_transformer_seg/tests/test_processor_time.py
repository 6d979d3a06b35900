"""The budgets of test files: what is measured, what is reported, and that a file far above its budget fails the run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import processor_time
from processor_time import ProcessorTime

BUSY = """
import time

def test():
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
"""
IN_A_CHILD = """
import pathlib, subprocess, sys

def test():
    folder = pathlib.Path(__file__).parent
    subprocess.run([sys.executable, "-c", "import test_computes; test_computes.test()"], cwd=folder)
"""
FILES = {"test_known.py": 0.5, "test_sleeps.py": 0.09}
TABLE = {"compiler_flags": {}, "fixed_loop": 100, "every_other_file": 0.1, "files": FILES}


@pytest.fixture
def suite(tmp_path):
    """A suite of a test that computes, one whose child process does, and one that sleeps."""
    folder = Path(processor_time.__file__).parent
    shutil.copy(folder / "processor_time.py", tmp_path)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["processor_time"]\n')
    (tmp_path / "budgets.json").write_text(json.dumps(TABLE))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name in ("computes", "known"):
        (tmp_path / f"test_{name}.py").write_text(BUSY)
    (tmp_path / "test_starts.py").write_text(IN_A_CHILD)
    (tmp_path / "test_sleeps.py").write_text("import time\ndef test(): time.sleep(0.5)\n")
    return tmp_path


def test_a_file_above_three_times_its_budget_fails_the_run(suite):
    pytest.importorskip("xdist")
    command = [sys.executable, "-m", "pytest", "-n", "1", "--dist", "loadfile", "--no-loadscope-reorder", "-v"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run([*command, "--budgets"], cwd=suite, env=environment, capture_output=True, text=True)
    assert "4 passed" in done.stdout and done.returncode == 1, done.stdout
    above = [line.split(":")[0] for line in done.stdout.splitlines() if "its budget of 0.1 s" in line]
    assert sorted(above) == ["ERROR test_computes.py", "ERROR test_starts.py"], done.stdout
    order = [line.split()[-1] for line in done.stdout.splitlines() if "PASSED" in line]
    assert [name.split("::")[0] for name in order[:2]] == list(FILES)  # those of the table first


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(processor_time, "TABLE", TABLE)
    monkeypatch.setattr(processor_time, "measure_loop", lambda: 200)


def test_the_phases_of_all_tests_of_a_file_are_summed_up_and_a_slow_machine_has_longer(table):
    times = ProcessorTime(enforce=True)

    def add(file, *seconds):
        for value in seconds:
            report = SimpleNamespace(nodeid=f"tests/{file}::test[a::b]", processor_seconds=value)
            times.pytest_runtest_logreport(report)

    add("test_known.py", 1.4, 1.4)  # three times half a second, on a machine half as fast
    add("test_new.py", 0.5)
    assert times.list_excess() == []
    add("test_known.py", 0.3)
    add("test_new.py", 0.2)
    assert times.list_excess() == [
        "tests/test_known.py: 3.1 s of processor time, more than 3 times its budget of 0.5 s",
        "tests/test_new.py: 0.7 s of processor time, more than 3 times its budget of 0.1 s",
    ]


@pytest.mark.parametrize(("enforce", "before", "after"), [(False, 0, 0), (True, 0, 1), (True, 2, 2)])
def test_only_a_run_that_would_pass_becomes_a_failure(table, enforce, before, after):
    times, session = ProcessorTime(enforce), SimpleNamespace(exitstatus=before)
    times.seconds["tests/test_new.py"] = 9
    times.pytest_sessionfinish(session)
    assert session.exitstatus == after


def test_every_budget_is_of_a_file_that_exists():
    files = {path.name for path in Path(processor_time.__file__).parent.rglob("test_*.py")}
    assert processor_time.TABLE["files"].keys() <= files
