"""The page at `/`: its files, and what it does in Chromium with the fake microphone."""

import re
from importlib.resources import files

import pytest

from asr.serve.page import page_paths
from serve.headless_chromium import PROGRAM, open_chromium
from serve.running_server import burst, call, post, serving, sound_file

WAVE = burst(3.3, seed=4)
PAGE = {file.name: file.read_text(encoding="utf-8") for file in files("asr.serve").joinpath("page").iterdir()}
WEBM = b"\x1a\x45\xdf\xa3"
SOUND = sound_file(WAVE)
KEEP_DOWNLOADS = """URL.createObjectURL = (blob) => { globalThis.blob = blob; return "blob:kept"; };
    HTMLAnchorElement.prototype.click = async function () { globalThis.saved = [this.download, await blob.text()]; }"""
VERBOSE = {"model": "tiny", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
VERBOSE |= {"timestamp_granularities": "segment"}


@pytest.fixture
def chromium():
    if PROGRAM is None:
        pytest.skip("there is no Chromium on this machine")
    with open_chromium() as chromium:
        yield chromium


def test_the_page_is_served_under_a_policy_that_keeps_others_out(server):
    for path in page_paths():
        answer = call(server, path=path)
        assert answer.status == 200 and answer.body
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert call(server).headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")


def test_the_page_needs_no_key_but_its_requests_do(service):
    with serving(service, keys=["a-key-of-enough-characters"]) as server:
        assert all(call(server, path=path).status == 200 for path in page_paths())
        assert call(server, path="/v1/models").status == 401


def test_the_page_loads_what_is_there_and_nothing_from_elsewhere():
    loaded = set(re.findall(r'(?:src|href)="(page/[^"]+)"', PAGE["index.html"]))
    loaded |= {f"page/{name}" for text in PAGE.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    loaded |= {name for text in PAGE.values() for name in re.findall(r'addModule\("(page/[^"]+)"\)', text)}
    assert {f"/{path}" for path in loaded} | {"/"} == set(page_paths())
    for name, text in PAGE.items():
        assert not re.search(r"https?://|//cdn|@import|\burl\(", text.replace("http://www.w3.org/2000/svg", "")), name
        assert not re.search(r"localStorage|sessionStorage|document\.cookie|innerHTML|eval\(", text), name
        assert not re.search(r'\sstyle="|\son\w+="|<style|<script>', text), name  # the policy forbids them
        assert len(text.splitlines()) <= 300, name


def test_the_script_uses_elements_that_exist():
    ids = set(re.findall(r'id="([^"]+)"', PAGE["index.html"]))
    used = {name for text in PAGE.values() for name in re.findall(r'\$\("([^"]+)"\)', text)}
    assert used <= ids and len(used) > 20
    assert set(re.findall(r'(?:for|aria-labelledby|aria-describedby)="([^"]+)"', PAGE["index.html"])) <= ids


def open_file(chromium, path):
    chromium.choose_file("#file", path)
    chromium.wait("!document.querySelector('#downloads').hidden", "the transcript")


def words_shown(chromium):
    return chromium.evaluate("[...document.querySelectorAll('.word')].map((word) => word.textContent)")


@pytest.mark.slow
def test_a_file_is_transcribed_played_and_saved(server, service, chromium, tmp_path):
    (tmp_path / "it's a talk.wav").write_bytes(SOUND)
    answer = post(server, VERBOSE, SOUND).json
    chromium.open(server.url)
    chromium.wait("document.querySelector('#model').textContent === 'tiny'", "the model")
    open_file(chromium, tmp_path / "it's a talk.wav")
    assert words_shown(chromium) == [word["word"] for word in answer["words"]] != []
    assert answer["text"] == service.transcriber.transcribe(SOUND).text

    titles = chromium.evaluate("[...document.querySelectorAll('.word')].map((word) => word.title)")
    for title, word in zip(titles, answer["words"], strict=True):
        assert title == f"{word['start']:.2f} s, {round(100 * word['confidence'])} % certain"
    chromium.evaluate("document.querySelectorAll('.word')[1].click()")
    position = "Number(document.querySelector('#waveform').getAttribute('aria-valuenow'))"
    chromium.wait(f"{position} >= {answer['words'][1]['start'] - 0.1}", "the place of the word")
    chromium.wait("document.querySelector('#play').getAttribute('aria-label') === 'Pause'", "the sound to play")

    command = chromium.evaluate("document.querySelector('#curl').textContent")
    assert f"curl {server.url}/v1/audio/transcriptions" in command and r"'file=@it'\''s a talk.wav'" in command
    chromium.evaluate(KEEP_DOWNLOADS)
    for name, suffix in [("text", "txt"), ("srt", "srt"), ("vtt", "vtt"), ("verbose_json", "json")]:
        chromium.click(f"[name=format][value={name}]")
        chromium.evaluate("globalThis.saved = null")
        chromium.click("#download")
        chromium.wait("saved", name)
        assert chromium.evaluate("saved[0]") == f"it's a talk.{suffix}"
        assert chromium.evaluate("saved[1]") == post(server, VERBOSE | {"response_format": name}, SOUND).body.decode()
        assert f"response_format={name}" in chromium.evaluate("document.querySelector('#curl').textContent")
    assert chromium.complaints == []
    assert all(address.startswith((server.url, "blob:")) for _, address in chromium.requests)


@pytest.mark.slow
def test_a_recording_is_posted_as_webm_and_gets_a_text(server, service, chromium, monkeypatch):
    contents, decode = [], service.pool.decode
    monkeypatch.setattr(service.pool, "decode", lambda content: contents.append(content) or decode(content))
    chromium.open(server.url)
    chromium.click("#record")
    chromium.wait("document.querySelector('#clock').textContent === '0:02'", "two seconds")
    pixels = "[...document.querySelector('#level').getContext('2d').getImageData(0, 0, 900, 56).data].some((p) => p)"
    assert chromium.evaluate(pixels)
    chromium.click("#stop")
    chromium.wait("!document.querySelector('#downloads').hidden", "the transcript")
    (content,) = contents
    assert content.startswith(WEBM) and len(content) > 5000
    assert words_shown(chromium) == [word["word"] for word in post(server, VERBOSE, content).json["words"]]
    assert chromium.evaluate("document.querySelector('#result-heading').textContent") == "recording.webm"
    assert chromium.complaints == []


@pytest.mark.slow
def test_errors_are_shown_in_the_server_s_words_and_a_key_stays_in_the_page(service, chromium, tmp_path):
    key = "a-key-of-enough-characters"
    (tmp_path / "talk.wav").write_bytes(SOUND)
    (tmp_path / "letter.txt").write_text("no sound")
    message = "document.querySelector('#error-message').textContent"
    with serving(service, keys=[key]) as server:
        chromium.open(server.url)
        chromium.wait("document.querySelector('#options').open", "the field of the key")
        chromium.choose_file("#file", tmp_path / "talk.wav")
        chromium.wait(f"{message}.includes('key')", "the refusal")
        assert chromium.evaluate("document.activeElement.id") == "key"
        for character in key:
            chromium.call("Input.insertText", text=character)
        open_file(chromium, tmp_path / "talk.wav")
        assert chromium.evaluate("document.querySelector('#error').hidden")
        assert "$ASR_API_KEY" in (command := chromium.evaluate("document.querySelector('#curl').textContent"))
        assert key not in command
        assert chromium.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        chromium.choose_file("#file", tmp_path / "letter.txt")
        chromium.wait(f"!document.querySelector('#error').hidden && !{message}.includes('key')", "the error")
        expected = post(server, {}, b"no sound", {"authorization": f"Bearer {key}"}).error["message"]
        assert chromium.evaluate(message) == expected
        assert chromium.evaluate("document.querySelector('#error').getAttribute('role')") == "alert"
        assert chromium.evaluate("document.querySelector('#result').hidden && document.querySelector('#retry').hidden")


@pytest.mark.slow
def test_the_keyboard_reaches_everything_and_a_phone_shows_everything(server, chromium, tmp_path):
    (tmp_path / "talk.wav").write_bytes(SOUND)
    chromium.open(server.url)
    open_file(chromium, tmp_path / "talk.wav")
    reached, focus = [], "((e) => e.id || e.className || e.tagName)(document.activeElement)"
    assert chromium.evaluate(focus) == "result"  # the transcript is the next thing to read
    chromium.evaluate("document.querySelector('.skip').focus()")
    for _ in range(16):
        chromium.press("Tab", 9)
        reached.append(chromium.evaluate(focus))
    order = ["file", "record", "play", "waveform", "word", "copy", "download", "copy-curl"]
    stops = [next(place for place, name in enumerate(reached) if name.split(" ")[0] == stop) for stop in order]
    assert stops == sorted(stops), reached
    assert sum(name.startswith("word") for name in reached) == 1  # arrow keys reach the other words
    chromium.evaluate("document.querySelector('.word').focus()")
    chromium.press("ArrowRight", 39)
    assert chromium.evaluate("[...document.querySelectorAll('.word')].indexOf(document.activeElement)") == 1
    chromium.evaluate("document.querySelector('#waveform').focus()")
    chromium.press("ArrowRight", 39)
    assert chromium.evaluate("document.querySelector('#waveform').getAttribute('aria-valuetext')") == "0:01 of 0:03"
    names = (
        "[...document.querySelectorAll('button, input, canvas, a')].filter((e) => !(e.ariaLabel || e.textContent.trim()"
    )
    assert chromium.evaluate(f"{names} || e.labels?.length)).map((e) => e.outerHTML)") == []
    said = chromium.evaluate("document.querySelector('[aria-live=polite]').textContent")
    assert said.startswith("Transcript ready: ")
    for width in (320, 375):
        chromium.look(tmp_path / "phone.png", width, 700, phone=True)
        assert chromium.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    colours = set()
    for dark in (False, True):
        chromium.look(tmp_path / "page.png", dark=dark)
        colours.add(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2 and chromium.complaints == []
