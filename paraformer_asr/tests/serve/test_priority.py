"""The event loop before what computes."""

import gc
import os
import threading

import pytest

from asr.serve import priority


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads have no priority of their own here")
def test_other_threads_step_back_once_and_only_for_the_main_thread(monkeypatch):
    steps, end = {}, threading.Event()
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(os, "setpriority", lambda kind, thread, value: steps.update({thread: value}))
    computing = threading.Thread(target=end.wait, daemon=True)
    computing.start()
    other = threading.Thread(target=priority.prefer_this_thread)
    other.start()
    other.join()
    assert not steps
    priority.prefer_this_thread()
    end.set()
    usual = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert steps[computing.native_id] == usual + priority.NICENESS and threading.get_native_id() not in steps
