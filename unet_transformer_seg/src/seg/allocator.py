"""Tells the C library what to do with memory that was freed."""

import contextlib
import ctypes
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # names of the parameters in malloc.h, as numbers
NEVER_TRIM = -1


def keep_freed() -> None:
    """Have memory that is freed serve the next allocation, instead of going back to the system.

    Each call of a program allocates its workspace, often hundreds of megabytes, and frees it. By default the C library
    gets it from the system every time, which zeroes every page again: up to a fifth of a step on a CPU. What is
    kept may lie in pieces, between which a large block does not fit (docs/performance.md has time and memory). Call it
    before the first thread starts; without effect where the C library is not glibc.

    Reference: mallopt(3). One arena, the main one, is the only kind that grows to any size.
    """
    with _c_library() as library:
        for parameter, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER_TRIM)):
            library.mallopt(parameter, value)


def give_back_freed() -> None:
    """Return what is free now to the system, see malloc_trim(3); without effect where there is no such call."""
    with _c_library() as library:
        library.malloc_trim(0)


@contextlib.contextmanager
def _c_library() -> Iterator[ctypes.CDLL]:
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no handle, no such function, no handle on Windows
        yield ctypes.CDLL(None)
