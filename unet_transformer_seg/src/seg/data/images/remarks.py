"""Remarks on files that are read although part of what they state is not followed."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from seg.untrusted import harmless

log = logging.getLogger("seg")

Remark = Callable[[str, Path, str], None]
"""Called with (kind, file, text); a kind is one cause, such as "transparency"."""

Note = Callable[[str, str], None]  # called with (kind, text) about the file that is being read

NAMED_PER_KIND = 3


def log_remark(kind: str, path: Path, text: str) -> None:
    """Log the remark as a warning."""
    log.warning(_as_warning(path, text))


class Remarks:
    """Logs a remark for the first files of each kind, once per file, and then that there are more.

    Training reads every file many times, and a data set may have thousands of one kind. Thread-safe.
    """

    def __init__(self, write: Callable[[str], object] = log.warning, named_per_kind: int = NAMED_PER_KIND):
        """Pass each line to `write`, and name up to `named_per_kind` files of a kind."""
        self._write, self._named_per_kind, self._lock = write, named_per_kind, threading.Lock()
        self._seen: dict[str, set[Path]] = defaultdict(set)

    def __call__(self, kind: str, path: Path, text: str) -> None:
        """Log the remark, unless its file or enough files of its kind were named before."""
        with self._lock:
            seen = self._seen[kind]
            if path in seen or len(seen) > self._named_per_kind:
                return
            seen.add(path)
            is_named = len(seen) <= self._named_per_kind
        more = f"warning: more files have a remark on their {kind}; they are not named"
        self._write(_as_warning(path, text) if is_named else more)


def _as_warning(path: Path, text: str) -> str:
    return f"warning: {harmless(str(path), kept='')}: {text}"
