"""The loop: what its hooks hear and when, when it evaluates, saves and stops, and what an interruption leaves."""

import contextlib
import types

import jax
import pytest

from asr.config import Config, TrainingConfig
from asr.record.run_dir import RunDir
from asr.training.loop import Training
from asr.training.run import explain
from asr.watch.hook import Hook
from asr.watch.interruption import StopRequestedError

STEPS_PER_EVALUATION, NUM_STEPS = 2, 4


class Watch(Hook):
    """Stands for the supervisor; asks to stop at the places that a test names."""

    def __init__(self, events, stop_in=()):
        self.events, self.stop_in = events, stop_in

    def check(self, place):
        if place in self.stop_in:
            raise StopRequestedError

    def result_of(self, function, *arguments):
        result = function(*arguments)
        self.check(f"batch {result['number']}")
        return result

    def requested(self):
        return False

    def stopping(self):
        return self.events[-1] in self.stop_in

    def beat(self):
        pass


class Listener(Hook):
    def __init__(self, events):
        self.events = events

    def on_batch(self, step, batch):
        self.events.append(f"batch {step}")

    def on_step(self, info):
        self.events.append(f"numbers {info.step}")
        assert info.batch == {"number": info.step} and info.values == {"loss": float(info.step)}

    def on_evaluation(self, info):
        self.events.append(f"evaluation {info.step}")
        self.train_loss = info.train_loss

    @contextlib.contextmanager
    def paused(self):
        self.events.append("pause")
        yield
        self.events.append("go")


class Store:
    def __init__(self, events):
        self.events, self.saved = events, []

    def save(self, step, state, progress, *_, **__):
        assert state.step == step
        self.events.append(f"save {step}")
        self.saved.append(progress)

    def steps(self):
        return [4]


def training(tmp_path, events, *stop_in):
    """A loop of four steps, evaluated after every second one, whose step and evaluation do nothing but take notes."""
    watch = Watch(events, stop_in)

    def train_step(state, batch, healthy, stop_d):
        watch.check(f"compile {batch['number']}")
        step = state.step + 1
        events.append(f"step {step}")
        return types.SimpleNamespace(step=step), {"loss": step, "finite": True, "stop": stop_d}, healthy

    def evaluate(state):
        watch.check(f"evaluate {state.step}")
        scores = types.SimpleNamespace(mean_iou=state.step / 10)
        rates = {"auto": 1 - state.step / 10}
        return types.SimpleNamespace(metrics=scores, rates=rates, loss=0.0, thresholds=())

    setup = types.SimpleNamespace(
        config=Config(training=TrainingConfig()),
        loader=types.SimpleNamespace(iterate=lambda first: ({"number": n + 1} for n in range(first, 99))),
        placement=types.SimpleNamespace(replicated=jax.devices()[0]),
        flags={False: 0, True: 1},
        num_steps=NUM_STEPS,
        put_batch=lambda batch: batch,
        epochs_after=lambda step: step / STEPS_PER_EVALUATION,
        evaluates_after=lambda step: step % STEPS_PER_EVALUATION == 0,
        schedule=lambda step: 0.1,
        train_step=train_step,
    )
    loop = Training(setup, RunDir(tmp_path), watch, [Listener(events)], evaluate)
    loop.train_step, loop.store = train_step, Store(events)
    return loop


def start(step=0):
    return types.SimpleNamespace(step=step)


def test_numbers_are_read_one_step_late_and_all_of_them_before_an_evaluation(tmp_path):
    events = []
    loop = training(tmp_path, events)
    assert loop.train(start()) == NUM_STEPS
    first = ["batch 1", "step 1", "batch 2", "step 2", "numbers 1", "numbers 2"]
    after_two = ["pause", "evaluation 2", "go", "pause", "save 2", "go"]
    assert events[:12] == first + after_two
    assert [event for event in events if event.startswith("numbers")] == [f"numbers {n}" for n in (1, 2, 3, 4)]
    assert events[-4:] == ["go", "pause", "save 4", "go"] and loop.finished(NUM_STEPS)
    assert loop.hooks[1].train_loss == (3 + 4) / 2


def test_a_stop_ends_the_run_after_the_step_and_saves_without_evaluating(tmp_path):
    events = []
    loop = training(tmp_path, events, "batch 3", "numbers 2")
    loop.supervisor.stop_in = ("step 3", "numbers 2", "numbers 3", "save 3", "go")
    assert loop.train(start(2)) == 3
    assert events == ["batch 3", "step 3", "numbers 3", "pause", "save 3", "go"]
    assert not loop.store.saved[0]["evaluation_due"]


@pytest.mark.parametrize("place", ["batch 4", "compile 4"])
def test_an_interrupted_wait_saves_the_step_before_it(tmp_path, place):
    events = []
    assert training(tmp_path, events, place).train(start(2)) == 3
    assert events[-4:] == ["numbers 3", "pause", "save 3", "go"]


def test_an_interrupted_wait_before_the_first_step_saves_nothing(tmp_path):
    events = []
    assert training(tmp_path, events, "batch 3").train(start(2)) == 2
    assert events == []


def test_an_interrupted_evaluation_is_due_and_comes_first_on_resume(tmp_path):
    events = []
    loop = training(tmp_path, events, "evaluate 2")
    assert loop.train(start()) == 2
    assert loop.store.saved[-1]["evaluation_due"] and "evaluation 2" not in events and "step 3" not in events

    resumed = training(tmp_path, events)
    resumed.progress.evaluation_due, events[:] = True, []
    assert resumed.train(start(2)) == NUM_STEPS
    assert events[:7] == ["pause", "evaluation 2", "go", "pause", "save 2", "go", "batch 3"]
    assert not resumed.store.saved[0]["evaluation_due"]


def test_an_evaluation_that_is_interrupted_again_makes_no_step(tmp_path):
    events = []
    loop = training(tmp_path, events, "evaluate 2")
    loop.progress.evaluation_due = True
    assert loop.train(start(2)) == 2
    assert events == ["pause", "go", "pause", "save 2", "go"]
    assert loop.store.saved[-1]["evaluation_due"]


def test_the_first_hook_that_knows_an_error_explains_it_with_the_way_to_resume(tmp_path):
    loop = training(tmp_path, [])
    error = RuntimeError("from jax")
    assert explain(loop, error) is error
    loop.hooks[1].explain = lambda error: ValueError(f"explained: {error}")
    message = str(explain(loop, error))
    assert message.startswith("explained: from jax\nLast checkpoint: step 4 in ")
    assert message.endswith(f"; resume with: {loop.run.resume_command}")
