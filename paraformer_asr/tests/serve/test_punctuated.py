"""The service with a punctuation model, through a real server."""

import json
import sys
from types import SimpleNamespace

import pytest

from asr.inference.punctuation import load_punctuator
from asr.serve import __main__ as command
from asr.serve.service import Service
from recorded_punctuation import write_folder
from serve.running_server import SETTINGS, long_sound, make_transcriber, post, serving

LONG = long_sound()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("punctuation") / "ct-punc")


@pytest.fixture(scope="module")
def service(folder):
    transcriber = make_transcriber()
    transcriber.punctuator = load_punctuator(folder)
    service = Service(transcriber, SETTINGS, name="tiny")
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def server(service):
    with serving(service) as server:
        yield server


def test_texts_have_signs_and_segments_are_sentences_and_nothing_is_compiled(server, service):
    answer = post(server, {"response_format": "verbose_json"}, LONG).json
    transcript = service.transcriber.transcribe(LONG)
    assert answer["text"] == transcript.text and answer["text"][0].isupper() and answer["text"][-1] in ".?"
    assert [segment["text"] for segment in answer["segments"]] == [s.text for s in transcript.sentences]
    assert post(server, {"response_format": "text"}, LONG).body.decode() == f"{transcript.text}\n"
    assert service.engine.compilations_after_ready == 0


def test_a_streamed_answer_has_the_same_text(server, service):
    body = post(server, {"stream": "true"}, LONG).body.decode()
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    text = service.transcriber.transcribe(LONG).text
    assert "".join(event.get("delta", "") for event in events) == events[-1]["text"] == text


def test_the_command_passes_the_folder_on(monkeypatch, folder):
    loaded = {}

    def load(path, **options):
        loaded.update(options)
        raise InterruptedError

    monkeypatch.setattr("asr.api.load", load)
    monkeypatch.setattr(sys, "argv", ["serve", "--model", "m", "--punct", str(folder)])
    with pytest.raises(InterruptedError):
        command.make_server(command.parse_arguments(), [], SimpleNamespace())
    assert loaded["punct"] == folder
