"""What is told about files that are read although part of what they say is not followed."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from seg.untrusted import printable

log = logging.getLogger("seg")

Remark = Callable[[str, Path, str], None]
"""Called with (kind, file, text): a kind is one cause, such as "transparency"."""

TOLD_PER_KIND = 3


def log_remark(kind: str, path: Path, text: str) -> None:
    """Log the remark as a warning."""
    log.warning(_as_warning(path, text))


class Remarks:
    """Tells the first files of each kind, each of them once, and says once that there are more.

    A training reads every file many times, and a data set may hold thousands of one kind. Any thread may call it.
    """

    def __init__(self, tell: Callable[[str], object] = log.warning, told_per_kind: int = TOLD_PER_KIND):
        """Remember nothing yet.

        Args:
            tell: called with each line.
            told_per_kind: files that are named.
        """
        self._tell, self._told_per_kind, self._lock = tell, told_per_kind, threading.Lock()
        self._told: dict[str, set[Path]] = defaultdict(set)

    def __call__(self, kind: str, path: Path, text: str) -> None:
        """Tell the remark, unless its file or enough of its kind were named before."""
        with self._lock:
            told = self._told[kind]
            if path in told or len(told) > self._told_per_kind:
                return
            told.add(path)
            is_named = len(told) <= self._told_per_kind
        more = f"warning: more files have a remark on their {kind}; they are not named"
        self._tell(_as_warning(path, text) if is_named else more)


def _as_warning(path: Path, text: str) -> str:
    return f"warning: {printable(str(path))}: {text}"
