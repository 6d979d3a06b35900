"""The trace of a few steps begins behind the warm-up, and says which module an operation comes from."""

import json
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from seg.profiling.trace import OPERATIONS_NAME, WARM_UP_STEPS, StepTrace


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
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder, **_: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def test_the_steps_behind_the_warm_up_are_traced_and_their_operations_named(calls, program, tmp_path):
    seen = []
    with StepTrace(tmp_path, 2) as trace:
        for step in range(1, WARM_UP_STEPS + 5):
            trace.at_step(step, program)
            seen.append(list(calls))
    assert seen.index(["start"]) == WARM_UP_STEPS and seen.index(["start", "stop"]) == WARM_UP_STEPS + 2
    assert seen[-1] == calls == ["start", "stop"]
    origins = json.loads((tmp_path / OPERATIONS_NAME).read_text())
    assert any("classes" in origin and "dot_general" in origin for origin in origins.values())


def test_a_run_that_ends_before_leaves_a_whole_trace_or_a_warning(calls, program, tmp_path, caplog):
    with StepTrace(tmp_path, 5) as trace:
        for step in range(1, WARM_UP_STEPS + 3):
            trace.at_step(step, program)
    assert calls == ["start", "stop"] and (tmp_path / OPERATIONS_NAME).exists()
    with caplog.at_level(logging.WARNING), StepTrace(tmp_path, 5) as trace:
        trace.at_step(1, program)
    assert calls == ["start", "stop"] and "no profiler trace" in caplog.text


def test_without_being_asked_nothing_is_traced(calls, tmp_path):
    with StepTrace(tmp_path, 0) as trace:
        for step in range(1, WARM_UP_STEPS + 5):
            trace.at_step(step)
    assert calls == []
