"""The service under a little load: right texts with batches, and refusals at once when there is too much."""

import asyncio
import contextlib
import dataclasses
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the clients are a folder beside this file

from loading.clients import Connection, Sound, closed_loop, open_loop, percentiles, watching_health

from asr.serve.service import Service
from serve.running_server import SETTINGS, make_transcriber, serving

SOUNDS = [Sound(0.3 + 0.1 * seed, seed) for seed in range(10)]


@pytest.fixture(scope="module")
def service():
    service = Service(make_transcriber(), dataclasses.replace(SETTINGS, queue_sound_s=20.0), name="load")
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def port(service):
    with serving(service) as server:
        yield server.listener.getsockname()[1]


def test_batches_under_load_change_no_text(service, port, monkeypatch):
    alone = asyncio.run(closed_loop(port, SOUNDS, 1, requests=30))
    start, sample = service.transcriber.start, service.metrics.registry.get_sample_value
    before, company = sample("asr_batch_rows_count"), threading.Event()

    def held(waves, *options):
        """Begin a batch; the first one ends when others wait, so that the next is shared on any machine."""
        finish, end = start(waves, *options), time.monotonic() + 30
        while not company.is_set() and time.monotonic() < end:
            time.sleep(0.005)
            if sample("asr_queue_requests") >= 4:
                company.set()
        return finish

    monkeypatch.setattr(service.transcriber, "start", held)
    together = asyncio.run(closed_loop(port, SOUNDS, 16, requests=120))
    assert alone.statuses == {200: 30} and together.statuses == {200: 120}
    assert alone.wrong == together.wrong == 0 and len({sound.text for sound in SOUNDS}) > 2
    assert sample("asr_batch_rows_count") - before < 120  # some were shared
    assert service.engine.compilations_after_ready == 0


def test_overload_is_refused_at_once_while_the_health_answers(service, port, monkeypatch):
    start, enough = service.transcriber.start, threading.Event()

    def held(waves, *options):
        """Begin a batch that ends when enough requests were refused, however slow the machine is."""
        finish = start(waves, *options)
        return lambda: [enough.wait(30), finish()][1]

    monkeypatch.setattr(service.transcriber, "start", held)

    def refused():
        return service.metrics.registry.get_sample_value("asr_rejections_total", {"reason": "overloaded"}) or 0

    async def main():
        before = refused()
        async with watching_health(port) as health:
            load = asyncio.create_task(open_loop(port, SOUNDS, 120, 1.0))
            while refused() < before + 6 and not load.done():
                await asyncio.sleep(0.01)
            enough.set()
            return await load, health

    load, health = asyncio.run(main())
    assert set(load.statuses) == {200, 429} and load.wrong == 0
    assert load.statuses[429] > 5
    assert percentiles(load.refused)["p50"] < percentiles(load.latencies["up to 8 s"])["p95"]
    assert len(health) > 2 and max(health) < 30  # one that was not answered counts as infinite
    report = load.report()
    assert report["statuses"] == {"200": load.statuses[200], "429": load.statuses[429]}


def test_a_server_that_is_not_there_is_status_0():
    async def main():
        with contextlib.closing(Connection(1)) as connection:
            assert await connection.ask(b"GET / HTTP/1.1\r\n\r\n") == (0, b"")

    asyncio.run(main())
    assert percentiles([]) is None
