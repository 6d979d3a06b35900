"""Runs a function in a process of its own."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """Return what a function of a test module answers in a fresh process.

    A meter of memory counts what every thread of its process takes, and other tests leave servers behind.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
