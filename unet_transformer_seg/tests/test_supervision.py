"""The watch over a run: waiting that can be left, the watchdog, signals, and the lock of a run directory."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from seg.errors import EXIT_HANG, EXIT_INTERRUPTED, EXIT_PEER_LOST, EXIT_TERMINATED, EXIT_USER_ERROR, UserError
from seg.watch.interruption import Interruption, StopRequestedError, Waiting
from seg.watch.run_lock import LOCK_NAME, only_process
from seg.watch.supervisor import STACKS_NAME, Supervisor


def test_waiting_gives_the_result_or_the_error():
    waiting = Waiting(lambda: True)
    assert waiting.result_of(lambda a, b: a + b, 1, 2) == 3  # it was there at once: the flag does not matter

    def fail():
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError, match="no"):
        waiting.result_of(fail)
    waiting.close()


def test_waiting_is_left_when_the_flag_is_set():
    wanted, never = threading.Event(), threading.Event()
    waiting = Waiting(wanted.is_set)
    threading.Timer(0.15, wanted.set).start()
    start = time.monotonic()
    with pytest.raises(StopRequestedError):
        waiting.result_of(never.wait, 20)
    assert time.monotonic() - start < 5
    never.set()
    waiting.close()


def test_a_signal_is_urgent_and_the_end_of_the_time_is_not():
    late = Supervisor(Interruption(max_minutes=0.0))
    assert late.requested() and not late.urgent()
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert Supervisor(interruption).urgent()
        assert interruption.exit_code == EXIT_TERMINATED


def test_the_error_of_the_run_is_raised_in_the_main_thread():
    supervisor = Supervisor(Interruption())
    assert supervisor.run(lambda: threading.current_thread().name) == "run"

    def fail():
        raise UserError("from within")

    with pytest.raises(UserError, match="from within"):
        supervisor.run(fail)


WATCHED = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from seg.watch.interruption import Interruption
from seg.watch.supervisor import Supervisor

def work():
    # Not a `RunDir`, whose import takes longer than all else here.
    supervisor.run_dir = SimpleNamespace(path=Path(sys.argv[1]), resume_command="")
    {body}

with Interruption() as interruption:
    supervisor = Supervisor(interruption, watchdog_minutes={minutes})
    print("begun", flush=True)
    sys.exit(supervisor.run(work))
"""


def watched(run_path, body, minutes=0.0, signals=()):
    """Run a script under a supervisor; return its exit code and what it printed."""
    script = WATCHED.format(body=body, minutes=minutes)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(run_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout.readline() == "begun\n"
    for number in signals:
        time.sleep(1.2)
        process.send_signal(number)
    with process.stdout:  # what was read ahead with the first line counts, too
        output = process.stdout.read()
    return process.wait(60), output


def test_a_run_that_hangs_is_ended_with_its_stacks(tmp_path):
    code, _ = watched(tmp_path, "time.sleep(60)", minutes=0.005)
    assert code == EXIT_HANG
    stacks = (tmp_path / STACKS_NAME).read_text()
    assert "in work" in stacks and "in run" in stacks


@pytest.mark.parametrize("change", ["shutil.rmtree(run)", "run.rename(run.with_name('other'))"])
def test_a_run_directory_that_vanishes_ends_the_run_at_once_with_a_word(tmp_path, change):
    run = tmp_path / "run"
    run.mkdir()
    start = time.monotonic()
    code, output = watched(run, f"import shutil; run = supervisor.run_dir.path; {change}; time.sleep(60)")
    assert code == EXIT_USER_ERROR and time.monotonic() - start < 30
    assert output == f"error: the run directory {run} is gone, nothing can be saved; start again\n"


def test_beats_keep_a_slow_run_alive(tmp_path):
    body = "[(time.sleep(0.1), supervisor.beat()) for _ in range(10)]"
    assert watched(tmp_path, body, minutes=0.01)[0] == 0


@pytest.mark.parametrize(("number", "margin_s"), [(signal.SIGTSTP, 0), (signal.SIGSTOP, 60)])
def test_the_time_that_a_run_is_stopped_does_not_count(tmp_path, number, margin_s):
    # It beats until it was stopped, and then not: what the watchdog sees first is how long ago the last beat was.
    body = f"""
    import seg.watch.supervisor as module
    module.REARM_S, module.MARGIN_S = 0.1, {margin_s}
    before = time.monotonic()
    while time.monotonic() - before < 4:
        before = time.monotonic()
        supervisor.beat()
        time.sleep(0.05)
    time.sleep(0.5)
"""
    default = "import signal; signal.signal(signal.SIGTSTP, signal.SIG_DFL)"  # a runner of tests may ignore it
    script = default + WATCHED.format(body=body, minutes=0.05)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # its own, in this session: a group that nobody could continue ignores Ctrl-Z
    )
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.4)
    process.send_signal(number)
    assert os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT).si_code == os.CLD_STOPPED
    time.sleep(5)  # longer than the watchdog's 3 s
    process.send_signal(signal.SIGCONT)
    with process.stdout:
        assert process.wait(60) == 0


def test_a_signal_ends_at_once_what_has_nothing_to_save(tmp_path):
    code, _ = watched(tmp_path, "with supervisor.nothing_to_save(): time.sleep(60)", signals=[signal.SIGINT])
    assert code == EXIT_INTERRUPTED


def test_a_signal_that_comes_twice_at_once_is_one():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # would end this process if it counted
        assert interruption.exit_code == EXIT_TERMINATED


def test_a_second_signal_does_not_wait(tmp_path):
    code, _ = watched(tmp_path, "time.sleep(60)", signals=[signal.SIGTERM, signal.SIGTERM])
    assert code == EXIT_TERMINATED


# --- the lock ---


def test_a_second_process_is_refused_and_the_first_named(tmp_path):
    with only_process(tmp_path):
        with (
            pytest.raises(UserError, match=rf"process {os.getpid()} on .*, since 20\d\d-") as error,
            only_process(tmp_path),
        ):
            raise AssertionError("two processes in one run")
        assert str(tmp_path) in str(error.value)
        assert json.loads((tmp_path / LOCK_NAME).read_text())["process"] == os.getpid()
    with only_process(tmp_path):
        pass  # let go of


def test_a_holder_that_says_nothing_is_refused_all_the_same(tmp_path):
    with only_process(tmp_path):
        (tmp_path / LOCK_NAME).write_text("{")
        with pytest.raises(UserError, match="left no description"), only_process(tmp_path):
            raise AssertionError("two processes in one run")


def test_a_run_directory_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / LOCK_NAME).mkdir()
    with pytest.raises(UserError, match=f"{LOCK_NAME}: cannot be written"), only_process(tmp_path):
        pass


# --- the guardian ---

GUARDED = """
import os, signal, sys, time
from seg.watch.parent_process import run_guarded

def work(report_resume_command):
    report_resume_command("RESUME COMMAND")
    print("begun", flush=True)
    {body}

sys.exit(run_guarded(work))
"""


def guarded(body, send=None, wait_s=0.0):
    process = subprocess.Popen(
        [sys.executable, "-c", GUARDED.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout.readline() == "begun\n"
    if send:
        time.sleep(wait_s)
        process.send_signal(send)
    with process.stdout:  # what was read ahead with the first line counts, too
        output = process.stdout.read()
    return process.wait(60), output


def test_the_guardian_answers_as_its_child():
    assert guarded("return 7") == (7, "")


def test_an_abort_is_explained_with_the_way_on():
    code, output = guarded("os.abort()")
    assert code == EXIT_PEER_LOST
    assert "another process of this run died" in output and "resume with: RESUME COMMAND" in output


def test_a_kill_from_outside_is_explained():
    code, output = guarded("os.kill(os.getpid(), signal.SIGKILL)")
    assert code == 137 and "signal 9" in output and "out of memory" in output


def test_signals_reach_the_child_once():
    body = (
        "signal.signal(signal.SIGTERM, lambda *_: heard.append(1)); heard = []; time.sleep(2); print(heard); return 9"
    )
    assert guarded(body, send=signal.SIGTERM, wait_s=0.5) == (9, "[1]\n")
