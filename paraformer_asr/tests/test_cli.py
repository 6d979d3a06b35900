"""Command lines: what ends one from outside leaves no traceback."""

import os
import signal
import subprocess
import sys

import pytest

PRINTS_FOR_EVER = """
import itertools
from asr.cli import run_command
def main():
    for number in itertools.count():
        print(number)
run_command(main)
"""

PRINTS_ONCE = """
import sys
from asr.cli import run_command
def main():
    sys.stdin.readline()
    print("done")
run_command(main)
"""

TIDIES_UP_SLOWLY = """
import time
from asr.cli import run_command
def main():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("tidying up", flush=True)
        time.sleep(60)
run_command(main)
"""


def start(code: str) -> subprocess.Popen:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)


@pytest.mark.parametrize("code", [PRINTS_FOR_EVER, PRINTS_ONCE], ids=["while it prints", "before it prints"])
def test_a_reader_that_has_had_enough_ends_the_command_quietly(code):
    with start(code) as command:
        if code is PRINTS_FOR_EVER:
            assert command.stdout.readline() == "0\n"
        command.stdout.close()
        command.stdin.write("\n")
        command.stdin.close()
        assert command.stderr.read() == ""
        assert command.wait(timeout=60) == 141


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_second_sigterm_does_not_wait_for_the_tidying_up():
    with start(TIDIES_UP_SLOWLY) as command:
        assert command.stdout.readline() == "begun\n"
        command.send_signal(signal.SIGTERM)
        assert command.stdout.readline() == "tidying up\n"
        command.send_signal(signal.SIGTERM)
        assert command.wait(timeout=30) == -signal.SIGTERM
        assert command.stderr.read() == "terminated\n"
