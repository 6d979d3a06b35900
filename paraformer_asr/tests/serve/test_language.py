"""The language of a request to SenseVoice, through a real server."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

import asr
from asr.serve.service import Service
from serve.running_server import SETTINGS, post, serving, sound_file
from test_sense_voice import RECORDED, WAVES

RATE_HZ = 16000
SOUND = sound_file(WAVES[1], RATE_HZ)
LIMIT = ["inference.max_segment_s=2"]


@pytest.fixture(scope="module")
def service():
    service = Service(asr.load(RECORDED, overrides=LIMIT), dataclasses.replace(SETTINGS, max_hotwords=0), name="tiny")
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def server(service):
    with serving(service, language="yue") as server:
        yield server


def test_each_request_has_its_language_and_nothing_is_compiled(server, service):
    expected = {"": service.transcriber.transcribe(WAVES[1], RATE_HZ).text}
    for language in ("en", "ja"):
        own = asr.load(RECORDED, overrides=[*LIMIT, f"model.sense_voice.language={language}"])
        expected[language] = own.transcribe(WAVES[1], RATE_HZ).text
    assert expected[""] != expected["en"]
    before = service.engine.compilations_after_ready  # those of the other transcribers
    languages = ["", "en", "ja", "EN", "auto"] * 2
    with ThreadPoolExecutor(len(languages)) as pool:
        answers = list(pool.map(lambda language: post(server, {"language": language}, SOUND), languages))
    texts = [expected[language.lower().replace("auto", "")] for language in languages]
    assert [answer.json["text"] for answer in answers] == texts
    assert not any("x-ignored" in answer.headers for answer in answers)
    body = post(server, {"language": "en", "stream": "true"}, SOUND).body.decode()
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    assert events[-1]["text"] == expected["en"]
    assert service.engine.compilations_after_ready == before


def test_the_answer_states_the_language_of_the_request_if_it_has_one(server):
    answers = [post(server, {"response_format": "verbose_json", **f}, SOUND).json for f in ({}, {"language": "en"})]
    assert answers[0]["language"] == "yue"
    assert answers[1]["language"] != "yue"


def test_another_language_is_refused_with_those_there_are(server):
    answer = post(server, {"language": "de"}, SOUND)
    assert answer.status == 400 and answer.error["param"] == "language"
    assert "expected one of auto, zh, en, yue, ja, ko, nospeech, found 'de'" in answer.error["message"]
