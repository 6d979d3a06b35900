"""Live text on the page at `/`, in Chromium: a microphone that plays a file, and a real server with tiny models."""

import contextlib
import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from starlette.routing import WebSocketRoute

from asr.serve.funasr_live import LiveSound
from asr.serve.service import Service
from serve.headless_chromium import PROGRAM, open_chromium
from serve.live_service import SETTINGS, make_models, speech
from serve.running_server import call, serving
from tiny_model import RATE_HZ

KEY = "a-key-of-enough-characters"
PAGE_RATE_HZ, FRAME_BYTES = 16_000, 1920  # 60 ms
TEXT = "document.querySelector('#live-text')"
LINES = f"[...{TEXT}.querySelectorAll('p:not(.partial):not(.empty) > :last-child')].map((span) => span.textContent)"
PARTIAL = f"{TEXT}.querySelector('.partial').textContent"
LISTENING = "document.querySelector('#live-state').textContent === 'Listening'"
MESSAGE = "document.querySelector('#error-message').textContent"
DONE = "!document.querySelector('#idle').hidden"
FOCUS = "document.activeElement.id"
SAID = "document.querySelector('[aria-live=polite]').textContent"


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


@pytest.fixture(scope="module")
def browser(microphone):
    if PROGRAM is None:
        pytest.skip("there is no Chromium on this machine")
    with open_chromium(f"--use-file-for-fake-audio-capture={microphone}") as chromium:
        yield chromium


@pytest.fixture
def chromium(browser):
    browser.complaints.clear()
    browser.requests.clear()
    return browser


def open_page(chromium, server):
    chromium.open(server.url)
    chromium.wait("!document.querySelector('#live-start').hidden", "the button")


def start(chromium, server):
    open_page(chromium, server)
    chromium.click("#live-start")


def shown(chromium, selector, name):
    return chromium.evaluate(f"getComputedStyle(document.querySelector({json.dumps(selector)})).{name}")


@contextlib.contextmanager
def scripted(service, *steps, end=(), modes="2pass"):
    """Serve the page with a websocket that sends the next step, frames or an exit code, for every second frame."""
    other = copy.copy(service)
    other.live, other.engine = SimpleNamespace(has_second_pass=modes == "2pass"), copy.copy(service.engine)
    settings = []

    async def converse(websocket):
        await websocket.accept("binary")
        num_frames, rest = 0, list(steps)
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            if message.get("text"):
                settings.append(json.loads(message["text"]))
            elif rest and (num_frames := num_frames + 1) % 2 == 0:
                await answer(websocket, rest.pop(0))
            if message.get("text") and settings[-1].get("is_end"):
                for step in end:
                    await answer(websocket, step)

    async def answer(websocket, step):
        if isinstance(step, int):
            await websocket.close(step)
        else:
            await websocket.send_text(json.dumps(step))

    with serving(other, engine=other.engine) as server:
        server.config.app.router.routes.insert(0, WebSocketRoute("/v1/stream", converse))
        server.settings_seen = settings
        yield server


def frame(mode, text, **fields):
    return {"mode": mode, "wav_name": "live", "text": text, "is_final": False, **fields}


END = {"is_end": True, "is_final": True}


@pytest.mark.slow
def test_speech_appears_while_it_is_spoken(live_service, chromium, monkeypatch):
    contents, push = [], LiveSound.push

    async def keep(sound, content):
        contents.append(content)
        return await push(sound, content)

    monkeypatch.setattr(LiveSound, "push", keep)
    with serving(live_service) as server:
        assert call(server, path="/v1/models").json["data"][0]["modes"] == ["offline", "online", "2pass"]
        start(chromium, server)
        chromium.wait(LISTENING, "the microphone")
        assert chromium.evaluate(FOCUS) == "live-stop" and chromium.evaluate(SAID) == "Listening"
        chromium.wait(f"{PARTIAL} !== ''", "grey text")
        chromium.wait(f"{LINES}.length >= 2", "two segments")
        pixels = "[...document.querySelector('#live-level').getContext('2d').getImageData(0, 0, 400, 56).data]"
        assert chromium.evaluate(f"{pixels}.some((value) => value)")
        chromium.click("#live-stop")
        chromium.wait(DONE, "the end")
        assert chromium.complaints == [] and all(url.startswith(server.url) for _, url in chromium.requests)
    assert {len(content) for content in contents[:-1]} == {FRAME_BYTES} and len(contents) > 10
    samples_n = np.frombuffer(b"".join(contents), "<i2")
    assert np.abs(samples_n).max() > 2000  # the tones, however loud the browser makes them
    stream = live_service.live.transcriber.stream(second_pass=live_service.transcriber, rate=PAGE_RATE_HZ)
    events = stream.push(samples_n) + stream.finish()
    texts = [event.transcript.text for event in events if event.final]
    assert chromium.evaluate(LINES) == [text for text in texts if text]  # what the page shows is what was said


@pytest.mark.slow
def test_grey_text_turns_black_and_only_black_text_is_read_aloud(live_service, chromium, tmp_path):
    steps = [frame("2pass-online", "good"), frame("2pass-online", " mourning")]
    final = frame("2pass-offline", "Good morning.", timestamp="[[61430, 61600], [61600, 62000]]")
    steps += [final, frame("2pass-online", " you")]
    with scripted(live_service, *steps, end=[frame("2pass-offline", " All of you.", timestamp="[]"), END]) as server:
        open_page(chromium, server)
        chromium.evaluate("document.querySelector('#live-start').focus()")
        chromium.press("Enter", 13)
        chromium.wait(f"{PARTIAL} === 'you'", "grey text behind black text")
        assert server.settings_seen[0] == {
            "mode": "2pass", "audio_fs": PAGE_RATE_HZ, "wav_format": "pcm", "wav_name": "live", "is_speaking": True
        }  # fmt: skip
        assert chromium.evaluate(LINES) == ["Good morning."]
        assert chromium.evaluate(f"{TEXT}.querySelector('.time').textContent") == "1:01"
        assert shown(chromium, ".partial", "color") != shown(chromium, "#live-text p:first-child", "color")
        assert chromium.evaluate(f"{TEXT}.role || {TEXT}.getAttribute('role')") == "log"
        assert chromium.evaluate(f"{TEXT}.querySelector('[aria-hidden=true]').className") == "partial"
        assert not chromium.evaluate("document.querySelector('#live-note').hidden")
        for dark, phone in [(False, True), (True, False)]:
            chromium.look(tmp_path / "page.png", 320 if phone else 900, 700, dark=dark, phone=phone)
            assert chromium.evaluate("document.documentElement.scrollWidth <= innerWidth")
        chromium.press("Enter", 13)  # the focus is on Stop
        chromium.wait(DONE, "the end")
        assert chromium.evaluate(LINES) == ["Good morning.", "All of you."] and chromium.evaluate(PARTIAL) == ""
        assert chromium.evaluate(FOCUS) == "live-start" and chromium.evaluate(SAID) == "Live text is complete"
        chromium.evaluate("navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }")
        chromium.click("#live-copy")
        chromium.wait("globalThis.copied", "the copy")
        assert chromium.evaluate("copied") == "Good morning. All of you."
        reached = []
        chromium.evaluate("document.querySelector('.skip').focus()")
        for _ in range(6):
            chromium.press("Tab", 9)
            reached.append(chromium.evaluate(FOCUS))
        assert reached[:3] == ["file", "record", "live-start"] and "live-copy" in reached
        assert chromium.complaints == []


@pytest.mark.slow
def test_without_a_second_pass_text_is_black_at_once(live_service, chromium):
    steps = [frame("online", "你好"), frame("online", " hello")]
    with scripted(live_service, *steps, end=[frame("online", " you", is_final=True), END], modes="online") as server:
        start(chromium, server)
        chromium.wait(f"{LINES}[0] === '你好 hello'", "the text")
        assert server.settings_seen[0]["mode"] == "online" and chromium.evaluate(PARTIAL) == ""
        assert chromium.evaluate("document.querySelector('#live-note').hidden")
        chromium.click("#live-stop")
        chromium.wait(DONE, "the end")
        assert chromium.evaluate(LINES) == ["你好 hello you"]
    with scripted(live_service, end=[frame("online", "", is_final=True), END], modes="online") as server:
        start(chromium, server)
        chromium.wait(LISTENING, "the microphone")
        chromium.click("#live-stop")
        chromium.wait(DONE, "the end")
        assert chromium.evaluate(f"{TEXT}.textContent") == "No speech was found."


FAILURES = [
    ([frame("2pass-online", "so"), {"error": "the server is busy; try again in 5 s"}, 1013], "the server is busy"),
    ([frame("2pass-online", "so"), 1011], "connection to the server was lost"),
]


@pytest.mark.slow
def test_what_goes_wrong_is_said_and_text_stays(live_service, chromium):
    for steps, words in FAILURES:
        with scripted(live_service, *steps) as server:
            start(chromium, server)
            chromium.wait(f"{MESSAGE}.includes({json.dumps(words)})", words)
            assert chromium.evaluate(DONE) and chromium.evaluate(PARTIAL) == "so"
            assert not chromium.evaluate("document.querySelector('#error').hidden")
            assert chromium.evaluate("document.querySelector('#retry').hidden")
    with scripted(live_service) as server:
        for name, words in [("NotAllowedError", "not allowed"), ("NotFoundError", "No microphone was found")]:
            open_page(chromium, server)
            refuse = f"async () => {{ throw new DOMException('', '{name}'); }}"
            chromium.evaluate(f"navigator.mediaDevices.getUserMedia = {refuse}")
            chromium.click("#live-start")
            chromium.wait(f"{MESSAGE}.includes({json.dumps(words)})", words)
            assert chromium.evaluate(f"{DONE} && document.querySelector('#live').hidden")
        no_https = "Object.defineProperty(navigator, 'mediaDevices', { value: undefined })"
        script = chromium.call("Page.addScriptToEvaluateOnNewDocument", source=no_https)["identifier"]
        open_page(chromium, server)
        chromium.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
        assert "https" in chromium.evaluate("document.querySelector('#no-microphone:not([hidden])').textContent")
        assert chromium.evaluate("document.querySelector('#live-start').disabled")
        open_page(chromium, server)  # stopped before the microphone was there
        chromium.evaluate("navigator.mediaDevices.getUserMedia = () => new Promise(() => {})")
        chromium.click("#live-start")
        chromium.click("#live-stop")
        chromium.wait(DONE, "the end")


@pytest.mark.slow
def test_live_text_is_offered_where_there_is_a_streaming_model_and_with_the_key(live_service, chromium):
    plain = copy.copy(live_service)
    plain.live = None
    with serving(plain) as server:
        chromium.open(server.url)
        chromium.wait("document.querySelector('#model').textContent === 'tiny'", "the model")
        assert chromium.evaluate("document.querySelector('#live-start').hidden")
        assert call(server, path="/v1/models").json["data"][0]["modes"] == ["offline"]
    for key in (KEY, f"{KEY}/="):  # the second one is no subprotocol
        with serving(live_service, keys=[key]) as server:
            chromium.open(server.url)
            chromium.wait("document.querySelector('#options').open", "the field of the key")
            assert chromium.evaluate("document.querySelector('#live-start').hidden")
            chromium.evaluate("document.querySelector('#key').focus()")
            chromium.call("Input.insertText", text=key)
            chromium.press("Enter", 13)
            chromium.wait("!document.querySelector('#live-start').hidden", "the button")
            chromium.click("#live-start")
            chromium.wait(LISTENING, "the microphone")
            chromium.click("#live-stop")
            chromium.wait(DONE, "the end")
            assert chromium.evaluate("document.querySelector('#error').hidden")
            chromium.evaluate("document.querySelector('#key').value = 'another-key-of-characters'")
            chromium.click("#live-start")
            chromium.wait(f"{MESSAGE}.includes('key')", "the refusal")
