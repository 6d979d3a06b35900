"""Strict numerics for every test, fresh random keys, and the processor time of each file."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.append(str(Path(__file__).parent))  # for the helpers that several tests share

import hypothesis
import jax
import pytest

pytest_plugins = ["processor_time"]

hypothesis.settings.register_profile("same examples in every run", derandomize=True)
hypothesis.settings.load_profile("same examples in every run")


@pytest.fixture(autouse=True, scope="session")
def strict_rank_promotion():
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def keys():
    """Return a function that gives a new key at each call, the same ones in every run of the test."""
    state = iter(jax.random.split(jax.random.key(0), 64))
    return lambda: next(state)


@pytest.fixture
def key(keys):
    return keys()
