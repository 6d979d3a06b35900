"""A few dozen hostile requests, a little load, and that the harness sees every way in which a server may fail."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
sys.path.append(str(Path(__file__).parent))  # the script and its parts

import hostile_uploads as script
from loading.clients import Picture, closed_loop, watching_health

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    with script.attacked_server() as (address, _):
        yield address


def test_a_few_dozen_hostile_requests_get_the_right_answers(address):
    kinds = list(script.KINDS)
    result = script.attack(address, kinds, 3 * len(kinds), seed=1)
    assert result.failures == [] and sum(result.statuses.values()) == 3 * len(kinds)
    assert {kind for kind, _ in result.statuses} == set(kinds)
    assert script.table(result, kinds).count("\n") == len(kinds) + 1


def test_load_changes_no_mask(address):
    async def main():
        async with watching_health(address[1]) as health:
            pictures = [Picture(20 + seed, 30, seed) for seed in range(8)]
            await closed_loop(address[1], pictures, 1, requests=8)
            return await closed_loop(address[1], pictures, 8, requests=80), health

    load, health = asyncio.run(main())
    assert load.statuses == {200: 80} and load.wrong == 0 and max(health) < 2
    assert load.report()["statuses"] == {"200": 80}


def test_the_harness_sees_a_wrong_status_a_dead_server_and_another_mask(address, monkeypatch):
    monkeypatch.setattr(script, "KINDS", {"intact": script.KINDS["intact"]._replace(allowed=("500",))})
    result = script.attack(address, ["intact"], 1, seed=0)
    assert [failure.split(": ")[1] for failure in result.failures] == ["200"]
    with pytest.raises(OSError):
        script.probe(("127.0.0.1", 9), script.Result())
    masks = iter([b"one", b"other"])
    monkeypatch.setattr(script, "good_mask", lambda address: next(masks))
    result = script.attack(address, [], 0, seed=random.randrange(9))
    assert result.failures == ["the intact image has another mask than before"]
