"""The resident memory of this process, now and at its peak.

`getrusage` has a peak too, but on Linux a process inherits that of its parent and cannot reset it after compilation.
`/proc/self` counts this process only, and its peak can be reset.
"""

import contextlib
import re
import resource
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # value that resets the peak, see proc_pid_clear_refs(5)


def resident_bytes() -> int:
    """Return the resident bytes now, or the peak if the system does not report them."""
    return _status("VmRSS") or _largest()


def peak_bytes() -> int:
    """Return the peak of the resident bytes since the start, or since `forget_peak` where supported."""
    return _status("VmHWM") or _largest()


def forget_peak() -> None:
    """Reset the peak, where supported."""
    with contextlib.suppress(OSError):
        CLEAR.write_text(FORGET_PEAK)


def _status(name: str) -> int | None:
    """Return the bytes in one line of the status, or None."""
    try:
        match = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(match[1]) if match else None


def _largest() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
