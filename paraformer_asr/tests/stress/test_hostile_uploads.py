"""A few dozen hostile requests, and that the harness sees every way in which a server may fail."""

import random
import runpy
import sys
from pathlib import Path

import pytest

from serve.running_server import make_service, serving

HARNESS = Path(__file__).parent
CASES = 60


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(HARNESS))
    yield runpy.run_path(str(HARNESS / "hostile_uploads.py"))
    sys.path.remove(str(HARNESS))


@pytest.fixture(scope="module")
def server(script):
    limits = {"max_body_bytes": script["MAX_BODY_BYTES"], "max_sound_s": script["MAX_SOUND_S"]}
    limits |= {"idle_timeout_s": 0.5, "headers_timeout_s": 0.5}
    service = make_service()
    service.start()
    with serving(service, limits=limits) as server:
        yield server
    service.stop()


def test_a_few_dozen_hostile_requests_get_the_right_answers(script, server):
    kinds = list(script["KINDS"])
    result = script["attack"](server.listener.getsockname()[:2], kinds, CASES, seed=1)
    assert result.failures == [] and sum(result.statuses.values()) == CASES
    assert {kind for kind, _ in result.statuses} == set(kinds)
    assert script["table"](result, kinds).count("\n") == len(kinds) + 1


def test_the_harness_sees_a_wrong_status_a_dead_server_and_another_text(script, server):
    address = server.listener.getsockname()[:2]
    kinds = script["KINDS"]
    odd = {"names": type(kinds["names"])(kinds["names"].attack, ("500",))}
    script["attack"].__globals__["KINDS"] = odd
    try:
        result = script["attack"](address, ["names"], 1, seed=0)
        assert [failure.split(": ")[1] for failure in result.failures] == ["200"]
    finally:
        script["attack"].__globals__["KINDS"] = kinds
    result = script["Result"]()
    with pytest.raises(OSError):
        script["probe"](("127.0.0.1", 9), result)
    texts = iter(["one", "other"])
    script["attack"].__globals__["good_text"] = lambda address: next(texts)
    result = script["attack"](address, ["names"], 1, seed=random.randrange(9))
    assert result.failures == ["the intact sound has another text than before"]
