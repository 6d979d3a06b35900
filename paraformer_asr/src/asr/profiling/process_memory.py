"""The memory of this process: what is resident now, and the most that was.

`getrusage` also tells a largest size, but on Linux a process begins with that of the one that started it, and cannot
forget what compiling took. `/proc/self` tells it for this process alone, and can be told to begin anew.

Memory that a program has freed may stay with the process, for it to use again. Of what a compiler leaves behind so, a
training step makes little use; `give_back_freed` returns it to the system.
"""

import contextlib
import re
import resource
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
"""What Linux calls it, see proc_pid_clear_refs(5)."""


def resident_bytes() -> int:
    """Return what is resident now; where the system does not tell, the most that was."""
    return _status("VmRSS") or _largest()


def peak_bytes() -> int:
    """Return the most that was resident since the start, or since `forget_peak` where the system can forget."""
    return _status("VmHWM") or _largest()


def forget_peak() -> None:
    """Let the peak count from now on; without effect where the system cannot do it."""
    with contextlib.suppress(OSError):
        CLEAR.write_text(FORGET_PEAK)


def _status(name: str) -> int | None:
    """Return bytes of one line of the status, or None where there is none."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def _largest() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
