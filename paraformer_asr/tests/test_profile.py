"""The trace of a few steps begins behind the warm-up, and says which module an operation comes from."""

import json
import logging
import types
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from asr.profiling.trace import OPERATIONS_NAME, WARM_UP_STEPS, StepTrace
from asr.record.run_dir import RunDir


class Head(nn.Module):
    @nn.compact
    def __call__(self, x_bd):
        return nn.Dense(3, name="classes")(x_bd)


@pytest.fixture
def program(key):
    params = Head().init(key, jnp.ones((2, 4)))
    return jax.jit(Head().apply).lower(params, jnp.ones((2, 4))).compile()


@pytest.fixture
def calls(monkeypatch):
    calls = []

    def start(folder, **_):
        Path(folder).mkdir(exist_ok=True)
        calls.append("start")

    monkeypatch.setattr(jax.profiler, "start_trace", start)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def trace_of(folder, num_steps, program):
    """A trace into `folder`, of a run whose steps are all made by one program."""
    trace = StepTrace(num_steps)
    trace.on_start(types.SimpleNamespace(run=RunDir(folder), train_step=types.SimpleNamespace(last=program)), 0)
    return trace


def test_the_steps_behind_the_warm_up_are_traced_and_their_operations_named(calls, program, tmp_path):
    seen, trace = [], trace_of(tmp_path, 2, program)
    for step in range(1, WARM_UP_STEPS + 5):
        trace.on_batch(step, {})
        seen.append(list(calls))
    trace.on_end()
    assert seen.index(["start"]) == WARM_UP_STEPS and seen.index(["start", "stop"]) == WARM_UP_STEPS + 2
    assert seen[-1] == calls == ["start", "stop"]
    origins = json.loads((tmp_path / "profile" / OPERATIONS_NAME).read_text())
    assert any("classes" in origin and "dot_general" in origin for origin in origins.values())


def test_a_run_that_ends_before_leaves_a_whole_trace_or_a_warning(calls, program, tmp_path, caplog):
    trace = trace_of(tmp_path, 5, program)
    for step in range(1, WARM_UP_STEPS + 3):
        trace.on_batch(step, {})
    trace.on_end()
    assert calls == ["start", "stop"] and (tmp_path / "profile" / OPERATIONS_NAME).exists()
    with caplog.at_level(logging.WARNING):
        trace = trace_of(tmp_path, 5, program)
        trace.on_batch(1, {})
        trace.on_end()
    assert calls == ["start", "stop"] and "no profiler trace" in caplog.text
