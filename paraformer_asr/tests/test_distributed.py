"""What is said when several processes do not find each other, or lose one; runs of them are in test_train_command."""

import sys
import types

import jax
import numpy as np
import pytest

import asr.train as train
from asr import distributed
from asr.distributed import check_agreement, explain_lost_peer, from_main, is_main
from asr.errors import PeerLostError, UserError


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
