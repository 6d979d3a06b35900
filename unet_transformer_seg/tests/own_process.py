"""Runs a function of a test file in a process of its own."""

import inspect
import multiprocessing
import runpy
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """Return what a function of a test file answers in a fresh process.

    A meter of memory counts what every thread of its process takes, and other tests leave servers behind.
    """
    # By the place of its file: the name under which pytest imports a test file depends on where it is called.
    place = inspect.getfile(function), function.__name__
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_call, *place, *arguments).result()


def _call(file: str, name: str, *arguments: Any) -> Any:
    return runpy.run_path(file)[name](*arguments)
