"""Memory that is freed serves the next allocation: no page is asked of the system twice."""

import ctypes
import subprocess
import sys

import pytest

from asr import allocator

PAGE, SIZE, TIMES = 4096, 64 << 20, 10
COUNT = f"""
import resource
from asr.allocator import keep_freed
[before]
for _ in range({TIMES}):
    b"x" * {SIZE}
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def count_page_faults(before: str) -> int:
    """Return the page faults of a process that allocates, fills and frees the same memory several times."""
    command = [sys.executable, "-c", COUNT.replace("[before]", before)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_kept_memory_is_asked_for_once():
    once = SIZE // PAGE
    assert count_page_faults("") > 0.9 * TIMES * once
    assert count_page_faults("keep_freed()") < 2 * once


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    allocator.keep_freed()
    allocator.give_back_freed()
