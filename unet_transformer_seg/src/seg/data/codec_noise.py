"""Silences the messages of C libraries about damaged files, which do not name the file.

libtiff and mpg123 print to C's stream of errors. Our own error names the file, and a usable file needs no remark.
Python and the messages of a crash do not use that stream: they write to its descriptor.
"""

import contextlib
import ctypes
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_threads = 0
_usual: int | None = None


@contextlib.contextmanager
def codecs_silenced() -> Iterator[None]:
    """Drop, while any thread is in the body, what C code prints to its stream of errors; without effect on Windows."""
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _threads, _usual
    with _lock:
        before, _threads = _threads, _threads + change
        if _STREAM is None or bool(before) == bool(_threads):
            return
        if _threads:
            _usual, _STREAM.value = _STREAM.value, _NOWHERE
        else:
            _STREAM.value = _usual


def _find_stream() -> tuple[ctypes.c_void_p | None, int]:
    """Return C's variable `stderr`, and a stream that leads nowhere."""
    try:
        library = ctypes.CDLL(None)
        library.fopen.restype = ctypes.c_void_p
        nowhere = library.fopen(b"/dev/null", b"w")
        return (ctypes.c_void_p.in_dll(library, "stderr"), nowhere) if nowhere else (None, 0)
    except (OSError, ValueError, AttributeError, TypeError):  # another C library, or another system
        return None, 0


_STREAM, _NOWHERE = _find_stream()
