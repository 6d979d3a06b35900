"""The signals that ordinarily end a process: a run saves first, and its exit code says which signal came."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from asr.signals import ENDING, EXIT_CODES, exit_code_of, listen, restore_handlers
from asr.watch import interruption as interruption_module
from asr.watch.interruption import Interruption
from asr.watch.supervisor import Supervisor


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture
def exits(monkeypatch):
    """The codes with which the process would have ended at once; signals count as far apart."""
    codes = []
    monkeypatch.setattr(interruption_module.os, "_exit", codes.append)
    monkeypatch.setattr(interruption_module, "SAME_SIGNAL_S", 0.0)
    return codes


@pytest.mark.parametrize("number", ENDING, ids=lambda n: n.name)
def test_each_signal_asks_the_run_to_save_and_has_its_code(number):
    with Interruption() as interruption:
        send(number)
        assert interruption.requested() and Supervisor(interruption).urgent()
        assert interruption.exit_code == 128 + number == exit_code_of(number)


def test_the_help_text_names_the_code_of_each_signal():
    if sys.platform == "linux":
        assert EXIT_CODES.count(",") == len(ENDING) - 1
        assert all(str(exit_code_of(number)) in EXIT_CODES for number in ENDING)


def test_a_warning_of_the_scheduler_and_its_sigterm_cut_no_save_short(exits):
    with Interruption() as interruption:
        for number in (signal.SIGUSR1, signal.SIGXCPU, signal.SIGXCPU, signal.SIGHUP, signal.SIGTERM):
            send(number)
        assert exits == [] and interruption.exit_code == exit_code_of(signal.SIGUSR1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT], ids=lambda n: n.name)
def test_who_sends_a_second_one_does_not_wait(exits, number):
    with Interruption():
        send(signal.SIGTERM)
        send(number)
    assert exits == [exit_code_of(number)]


def test_sighup_stays_ignored_below_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        previous = listen(lambda *_: None)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        restore_handlers(previous)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with Interruption() as interruption:
            send(signal.SIGHUP)
            assert not interruption.requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_restored():
    before = {number: signal.getsignal(number) for number in ENDING}
    with Interruption():
        assert all(signal.getsignal(number) != before[number] for number in ENDING)
    assert {number: signal.getsignal(number) for number in ENDING} == before


COMMAND = """
import os, signal, sys, time
from pathlib import Path
from asr.cli import run_command, run_training_command
from asr.watch.interruption import Interruption
from asr.record.progress_bar import write_above_line
from asr.watch.supervisor import Supervisor

for number in (signal.SIGHUP, signal.SIGUSR2):  # whatever the test itself was started with
    signal.signal(number, signal.SIG_DFL)
if os.isatty(0):
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # the first terminal that a session opens is its own

def train():
    with Interruption() as interruption:
        supervisor = Supervisor(interruption)
        def work():
            while not supervisor.requested():
                time.sleep(0.02)
            write_above_line("stopped")  # as the run's log does
            Path(sys.argv[1]).write_text("saved")
            return interruption.exit_code
        Path(sys.argv[1] + ".begun").touch()
        return supervisor.run(work)

def write():
    try:
        Path(sys.argv[1] + ".begun").touch()
        time.sleep(60)
    finally:
        Path(sys.argv[1]).write_text("tidied up")

{call}
"""


def started(tmp_path, call, **options):
    command = [sys.executable, "-c", COMMAND.replace("{call}", call), tmp_path / "out"]
    process = subprocess.Popen(command, **options)
    while not (tmp_path / "out.begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_a_closed_terminal_lets_the_run_save(tmp_path):
    """The kernel sends SIGHUP, and from then on nothing can be printed."""
    ours, theirs = pty.openpty()

    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = started(tmp_path, "run_training_command(train)", start_new_session=True, **terminal)
    os.close(theirs)
    os.close(ours)
    assert process.wait(60) == 129
    assert (tmp_path / "out").read_text() == "saved"


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP], ids=lambda n: n.name)
def test_other_commands_tidy_up(tmp_path, number):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = started(tmp_path, "run_command(write)", **options)
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == f"ended by {number.name}\n"
    assert process.returncode == exit_code_of(number) and (tmp_path / "out").read_text() == "tidied up"
