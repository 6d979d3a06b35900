"""Command lines: what ends one from outside leaves no traceback."""

import os
import signal
import subprocess
import sys

import pytest
from tqdm import tqdm

from asr.cli import run_command
from asr.errors import UserError
from asr.untrusted import HARMFUL

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


def run(main, capsys):
    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code, *capsys.readouterr()


HOSTILE = "a\x1b[2Jb\x9b31mc\rd\u202ee\u2066" + os.fsdecode(b"f\xe9")


def test_what_a_command_prints_steers_no_terminal(capsys):
    def main():
        print("\t1\n", HOSTILE)
        print(HOSTILE, file=sys.stderr)
        sys.stdout.writelines([HOSTILE])
        raise UserError(f"{HOSTILE}: no such file\nerror: a lie\n  more")

    code, out, err = run(main, capsys)
    assert code == 2 and out.startswith("\t1\n") and not HARMFUL.search((out[3:] + err).replace("\n", ""))
    assert out.count("a\\x1b[2Jb\\x9b31mc\\rd\\u202ee\\u2066f\\udce9") == 2
    assert err.splitlines()[1].startswith("error: a\\x1b[2J") and err.splitlines()[2:] == ["  error: a lie", "  more"]
    assert sys.stdout.write.__self__ is sys.stdout and not hasattr(sys.stdout, "_stream")


def test_progress_bars_still_move(capsys):
    def main():
        for _ in tqdm(range(2), desc=HOSTILE, file=sys.stderr, position=1, mininterval=0):
            tqdm.write(HOSTILE, file=sys.stderr)

    code, _, err = run(main, capsys)
    assert code == 0 and "\r" in err and "\x1b[A" in err and "2/2" in err and "\x1b[2J" not in err


def test_a_name_that_no_file_can_have_is_told(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        run_command(lambda: (tmp_path / ("n" * 300)).stat().st_size)
    assert end.value.code == 2
    assert "nnn" in (said := capsys.readouterr().err)
    assert said.startswith("error: ") and said.endswith(": the name is too long for this file system\n")
