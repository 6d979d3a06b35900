"""What a step needs, and what is said when there is not enough."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest

from seg.allocator import give_back_freed
from seg.compiler import MemoryNeed, plan_memory
from seg.config import Config, DataConfig, ModelConfig, ToyConfig, TrainingConfig
from seg.profiling import dry_run, memory
from seg.profiling.memory import describe_savings, format_bytes, is_out_of_memory, savings
from seg.profiling.process_memory import resident_bytes

CONFIG = Config(
    model=ModelConfig(name="unet", base_width=4, depth=1),
    data=DataConfig(size=(16, 16), toy=ToyConfig(num_train=8, num_val=4)),
    training=TrainingConfig(batch_size=4, num_epochs=3),
)


def program(arguments, workspace, output, alias):
    analysis = types.SimpleNamespace(
        argument_size_in_bytes=arguments,
        temp_size_in_bytes=workspace,
        output_size_in_bytes=output,
        alias_size_in_bytes=alias,
    )
    return types.SimpleNamespace(memory_analysis=lambda: analysis)


def test_a_state_that_is_taken_over_is_counted_once():
    assert plan_memory(program(100, 40, 90, 80)) == MemoryNeed(100, 40, 10)
    assert plan_memory(program(100, 40, 90, 80)).peak == 150
    assert plan_memory(types.SimpleNamespace(memory_analysis=lambda: None)) is None


def test_what_would_save_memory_keeps_the_batch():
    found = savings(CONFIG)
    assert list(found) == [
        "model.remat=true",
        "training.accumulate=2",
        "model.remat=true training.accumulate=2",
    ]
    assert all(config.training.batch_size == 4 for config in found.values())
    assert found["model.remat=true"].model.remat
    remat = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, remat=True))
    assert list(savings(remat)) == ["training.accumulate=2"]
    odd = dataclasses.replace(CONFIG, training=TrainingConfig(batch_size=3))
    assert list(savings(odd)) == ["model.remat=true"]


def test_savings_are_told_in_bytes():
    compiled = iter([program(10**6, 0, 0, 0), program(2 * 10**9, 0, 0, 0), program(500, 0, 0, 0)])
    assert describe_savings(CONFIG, lambda _: next(compiled)) == [
        "model.remat=true: 1.00 MB",
        "training.accumulate=2: 2.00 GB",
        "model.remat=true training.accumulate=2: 0.5 kB",
    ]


def test_out_of_memory_says_what_was_asked_for_and_what_would_need_less(monkeypatch):
    monkeypatch.setattr(memory, "compile_for", lambda *_: program(10**6, 0, 0, 0))
    setup = types.SimpleNamespace(config=CONFIG, placement=types.SimpleNamespace(num_devices=2), custom=None)
    lines = memory.explain_out_of_memory(setup, program(3 * 10**9, 0, 0, 0)).splitlines()
    assert "training.batch_size 4 in 1 part(s) of 16 × 16 pixels on 2 device(s)" in lines[0]
    assert lines[0].endswith("the step needs 3.00 GB on each device")
    assert (
        lines[1] == "  with model.remat=true: 1.00 MB"
        and lines[-1] == "  or, in a new run, with a smaller training.batch_size"
    )


def test_the_signs_of_memory_running_out():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"))
    assert not is_out_of_memory(RuntimeError("INTERNAL: something else"))


@pytest.mark.parametrize(("size", "text"), [(0, "0.0 kB"), (1500, "1.5 kB"), (2.5e6, "2.50 MB"), (3e9, "3.00 GB")])
def test_bytes_are_told_in_the_unit_that_suits_them(size, text):
    assert format_bytes(size) == text


def test_a_dry_run_tells_all_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "compile_for", lambda *_: program(10**6, 0, 0, 0))
    text = dry_run.describe_run(dataclasses.replace(CONFIG, runs_dir=str(tmp_path / "runs")))
    assert "unet, 1,774 parameters (7.1 kB)" in text and "8 training and 4 validation samples" in text
    assert "3 epochs of" in text and "with model.remat=true: 1.00 MB" in text
    assert "GFLOP a step" in text and "on each device" in text
    assert not (tmp_path / "runs").exists()


def test_freed_memory_goes_back_to_the_system():
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    pieces = [np.ones(60_000, np.uint8) for _ in range(4000)]  # each too small to be a mapping of its own
    last = pieces[-1]  # the end of the heap stays in use, so that freeing alone gives nothing back
    full = resident_bytes()
    pieces.clear()
    give_back_freed()
    assert resident_bytes() < full - 150_000_000
    assert last.all()
