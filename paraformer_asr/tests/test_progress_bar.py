"""The progress line of a training: its speed, its pauses, and what is shown with and without a terminal."""

import contextlib
import sys
import time

import pytest

from asr.record import progress_bar
from asr.record.progress_bar import ProgressLine


@pytest.fixture
def clock(monkeypatch):
    """A clock to be set by hand."""
    clock = type("Clock", (), {"now": 1000.0})()
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: clock.now)
    return clock


def test_without_a_terminal_there_are_plain_lines_and_no_bar(clock, capsys):
    line = ProgressLine(total_steps=100, start_step=0, unit="m/s")
    with contextlib.closing(line):
        for step in range(1, 11):
            clock.now += 2
            line.update(step, 1 / step, amount=48)
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines() == [
        "step 5/100  loss 0.2000  24.0 m/s  03:10 left",
        "step 10/100  loss 0.1000  24.0 m/s  03:00 left",
    ]


def test_the_speed_leaves_out_pauses(clock):
    line = ProgressLine(total_steps=100, start_step=40, unit="m/s")
    assert line.speed == 0
    for step in range(41, 45):
        with line.paused():
            clock.now += 1000  # compilation or evaluation
        clock.now += 2
        line.update(step, 1.0, amount=10.0 * (step - 40))
    assert line.speed == (10 + 20 + 30 + 40) / 8


def test_on_a_terminal_there_is_a_live_bar_and_no_plain_line(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    line = ProgressLine(total_steps=100, start_step=40, unit="m/s")
    with contextlib.closing(line):
        for step in (41, 42):
            clock.now += 20
            time.sleep(0.12)  # the bar is drawn ten times a second at most
            line.update(step, 0.25, amount=8)
    shown = capsys.readouterr()
    assert shown.out == "" and "loss 0.2500, 0.4 m/s" in shown.err and "42/100" in shown.err
