"""Live text on the page at `/`, in Chromium: a microphone that plays a file, a real server with tiny models."""

import asyncio
import json

import numpy as np
import pytest
import soundfile
from fastapi import WebSocket

from asr.serve.funasr_live import LiveSound
from asr.serve.service import Service
from serve.headless_chromium import PROGRAM, open_chromium
from serve.live_service import SETTINGS, make_models, speech
from serve.running_server import call, make_server, serving
from tiny_model import RATE_HZ

TEXT = "document.querySelector('#live-text')"
LINES = f"[...{TEXT}.querySelectorAll('p:not(.partial):not(.empty) > :last-child')].map((span) => span.textContent)"
PARTIAL = f"{TEXT}.querySelector('.partial').textContent"
STATE = "document.querySelector('#live-state').textContent"
MESSAGE = "document.querySelector('#error-message').textContent"
DONE = "!document.querySelector('#idle').hidden"


@pytest.fixture(scope="module")
def live_service():
    streaming, offline = make_models()
    service = Service(offline, SETTINGS, name="tiny", streaming=streaming)
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def microphone(tmp_path_factory):
    """The file that the microphone plays, over and over: two stretches of tones, with silence around them."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    silence_n = np.zeros(RATE_HZ // 2, np.int16)
    soundfile.write(path, np.concatenate([silence_n, speech(1), silence_n]), RATE_HZ)
    return path


@pytest.fixture
def chromium(microphone):
    if PROGRAM is None:
        pytest.skip("there is no Chromium on this machine")
    with open_chromium(f"--use-file-for-fake-audio-capture={microphone}") as chromium:
        yield chromium


def start(chromium, server):
    chromium.open(server.url)
    chromium.wait("!document.querySelector('#live-start').hidden", "the button")
    chromium.click("#live-start")


@pytest.mark.slow
def test_speech_appears_while_it_is_spoken(live_service, chromium, monkeypatch):
    contents, frames, push = [], [], LiveSound.push

    async def keep(sound, content):
        contents.append(content)
        return await push(sound, content)

    monkeypatch.setattr(LiveSound, "push", keep)
    with serving(live_service) as server:
        start(chromium, server)
        chromium.wait(f"{STATE} === 'Listening'", "the microphone")
        assert chromium.evaluate("document.activeElement.id") == "live-stop"
        chromium.wait(f"{PARTIAL} !== ''", "grey text")
        chromium.wait(f"{LINES}.length >= 2", "two segments")
        chromium.click("#live-stop")
        chromium.wait(DONE, "the end")
    print(chromium.evaluate(LINES), len(contents), {len(c) for c in contents}, chromium.complaints)
