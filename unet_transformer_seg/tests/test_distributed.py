"""What is said when several processes do not find each other, or lose one; runs of them are in test_train_command."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seg.train as train
from seg import distributed
from seg.config import Config
from seg.distributed import check_agreement, explain_lost_peer, from_main, is_main
from seg.errors import PeerLostError, UserError
from seg.training.evaluate import StoppableStep, sum_over_processes
from seg.training.step import FILLER


def test_one_process_is_the_first_and_agrees_with_itself():
    assert is_main() and from_main("a text") == "a text"
    check_agreement({"anything": [1, None, "x"]})


LOST = "INTERNAL: Gloo all-reduce failed: [tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:55555"


def test_a_lost_peer_is_recognised_where_there_are_peers(monkeypatch):
    assert explain_lost_peer(RuntimeError(LOST)) is None
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    found = explain_lost_peer(RuntimeError(LOST))
    assert isinstance(found, PeerLostError) and "process 0 of 4" in str(found) and "Connection closed" in str(found)
    assert explain_lost_peer(RuntimeError("INTERNAL: something else")) is None


def test_processes_that_differ_are_named(monkeypatch):

    monkeypatch.setattr(jax, "process_count", lambda: 3)
    other = lambda digests: np.stack([digests, digests + np.eye(2, 1, -1, dtype=np.uint8), digests])  # noqa: E731
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", other)
    with pytest.raises(UserError, match="^the steps: differs between process 0 and process 1"):
        check_agreement({"the config": 1, "the steps": 2})


@pytest.mark.parametrize(
    "arguments",
    [
        ["--coordinator", "a:1"],
        ["--distributed", "--coordinator", "a:1", "--num-processes", "2"],
        ["--num-processes", "2", "--process-id", "0", "--coordinator", "a:1"],
    ],
)
def test_an_incomplete_description_is_refused(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["train", "--config", "c.yaml", *arguments])
    with pytest.raises(UserError, match="--coordinator, --num-processes and --process-id go together"):
        train.check_distributed(train.parse_arguments())


def test_without_a_job_the_way_to_describe_one_is_told(monkeypatch):
    def initialize(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax, "distributed", types.SimpleNamespace(initialize=initialize))
    with pytest.raises(UserError, match="Pass --coordinator HOST:PORT --num-processes N --process-id I"):
        distributed.initialize(None, None, None)


def test_the_coordinator_listens_at_its_own_address(monkeypatch):
    given = {}
    monkeypatch.setattr(jax, "distributed", types.SimpleNamespace(initialize=given.update))
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    distributed.initialize("10.1.2.3:4000", 2, 0)
    assert given["coordinator_bind_address"] == "10.1.2.3:4000"
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "0:4000")
    distributed.initialize("10.1.2.3:4000", 2, 0)
    assert given["coordinator_bind_address"] == "0:4000"


def test_counts_of_processes_are_added_up_in_64_bits(monkeypatch):
    counts_kk = np.array([[2**40, 1], [0, 7]])
    assert sum_over_processes(counts_kk) is counts_kk
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda x: np.asarray(jnp.stack([x, x])))
    np.testing.assert_array_equal(sum_over_processes(counts_kk), 2 * counts_kk)


class FakeSetup(types.SimpleNamespace):
    config, rows, flags = Config(), 2, {False: 0}

    def put_batch(self, batch, _names):
        return batch


@pytest.mark.parametrize("own_windows", [0, 2])
def test_a_process_takes_part_in_evaluation_until_no_other_has_a_window_left(monkeypatch, own_windows):
    """The other process has three calls to make; the step tells all how many samples are no filler."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    others, seen = iter([1, 1, 1, 0, 0]), []

    def eval_step(_variables, batch, _flag):
        seen.append(batch["image"].shape)
        return {
            "stop": 0,
            "busy": next(others) + int((batch["role"] != FILLER).sum()),
            "probabilities_bhwk": batch["image"],
        }

    supervisor = types.SimpleNamespace(urgent=lambda: False, beat=lambda: None)
    setup = FakeSetup(placement=types.SimpleNamespace(local_rows=lambda array: array))
    step = StoppableStep(setup, None, supervisor, eval_step)
    for _ in range(own_windows):
        assert len(step.answer(np.zeros((1, 64, 64, 3), np.uint8))) == 1
    step.finish()
    assert seen == [(2, 64, 64, 3)] * 4
