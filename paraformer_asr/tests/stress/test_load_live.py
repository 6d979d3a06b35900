"""The clients that speak live: they notice text, its end, and conversations that fail."""

import asyncio
import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the clients are a folder beside this file

from load_live import speak, speak_together
from loading.clients import Sound

from asr.serve.service import Service
from serve.live_service import make_models
from serve.running_server import SETTINGS, make_transcriber, serving

SOUNDS = [Sound(0.7, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def service():
    streaming, _ = make_models(detects=False)
    settings = dataclasses.replace(SETTINGS, max_streams=2, batch_rows=1, max_hotwords=0)
    service = Service(make_transcriber(), settings, name="load", streaming=streaming)
    service.start()
    yield service
    service.stop()


def test_conversations_in_real_time_are_counted(service):
    with serving(service) as server:
        port = server.listener.getsockname()[1]
        talk, uploads = asyncio.run(speak_together(port, SOUNDS, "online", 2, 1, uploads_per_s=5))
        assert set(uploads.statuses) == {200} and uploads.wrong == 0
        assert (talk.conversations, talk.failed, len(talk.final)) == (2, 0, 2)
        assert talk.characters > 3 and 0 < talk.first_text[0] < 30
        assert set(talk.report()["final_ms"]) == {"p50", "p95", "p99"}
        asyncio.run(speak(port, SOUNDS[0], "2pass", talk, in_real_time=False))  # there is no detector
        assert talk.failed == 1
