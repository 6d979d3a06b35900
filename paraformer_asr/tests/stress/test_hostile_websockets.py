"""A few hostile conversations of each kind, and that the harness sees every way in which a server may fail."""

import asyncio
import runpy
import sys
from pathlib import Path

import pytest

from serve.running_server import make_service, serving

HARNESS = Path(__file__).parent


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(HARNESS))
    yield runpy.run_path(str(HARNESS / "hostile_websockets.py"))
    sys.path.remove(str(HARNESS))


@pytest.fixture(scope="module")
def server(script):
    service = make_service()
    service.start()
    with serving(service, limits=script["LIMITS"]) as server:
        yield server
    service.stop()


def test_hostile_conversations_end_as_they_may(script, server, capsys):
    address, number = server.url.replace("http", "ws"), 2 * len(script["KINDS"])
    before = asyncio.run(script["good_client"](address))
    outcomes = asyncio.run(script["attack"](address, number, seed=1))
    assert script["print_table"](outcomes)
    assert capsys.readouterr().out.count("\n") == len(script["KINDS"]) + 2
    assert sum(map(len, outcomes.values())) == number
    assert asyncio.run(script["good_client"](address)) == before


@pytest.mark.parametrize(
    ("kind", "code", "may"),
    [
        ("half samples", 1000, True),
        ("half samples", 1003, True),
        ("half samples", 1011, False),
        ("half samples", 1006, False),
        ("clients that leave", 1006, True),
        ("clients that leave", 1011, False),
    ],
)
def test_the_table_tells_faults_of_the_server_from_those_of_clients(script, kind, code, may):
    outcomes = {name: [] for name in script["KINDS"]} | {kind: [script["Outcome"]((), True, code)]}
    assert script["print_table"](outcomes) is may
    assert not script["print_table"](outcomes | {kind: [TimeoutError()]})
