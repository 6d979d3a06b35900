"""OpenAI's interface, as its own client and curl speak it, against a real server."""

import http.client
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import openai
import pytest

from asr.serve.options import FIELDS
from asr.serve.settings import ServeSettings
from serve.running_server import (
    RATE_HZ,
    TOKENIZER,
    TRANSCRIPTIONS,
    burst,
    call,
    logged,
    long_sound,
    post,
    post_parts,
    repeated,
    serving,
    sound_file,
)

SERVE = Path(__file__).parents[2] / "src/asr/serve"
LONG, SHORT = long_sound(), sound_file(burst(1, seed=7))
SEGMENT_FIELDS = ["id", "seek", "start", "end", "text", "tokens", "temperature"]
SEGMENT_FIELDS += ["avg_logprob", "compression_ratio", "no_speech_prob"]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        yield client


@pytest.fixture(scope="module")
def transcript(service):
    """What `asr infer` writes for the long sound."""
    transcript = service.transcriber.transcribe(LONG)
    assert len(transcript.segments) == 3 and len(transcript.tokens) > 10
    return transcript


def ask(client, sound=LONG, **options):
    return client.audio.transcriptions.create(file=("talk.wav", sound), model="whisper-1", **options)


# ── formats ──


def test_json_is_the_default(client, transcript):
    answer = ask(client)
    assert answer.text == transcript.text
    assert (answer.usage.type, answer.usage.seconds) == ("duration", round(transcript.duration_s, 3))
    assert answer.logprobs is None


@pytest.mark.parametrize("name", ["text", "srt", "vtt"])
def test_a_text_format_is_what_asr_infer_writes(client, transcript, name):
    assert ask(client, response_format=name) == getattr(transcript, f"to_{name}")()


@pytest.mark.parametrize(
    ("name", "kind"),
    {
        "json": "application/json",
        "verbose_json": "application/json",
        "text": "text/plain; charset=utf-8",
        "srt": "text/plain; charset=utf-8",
        "vtt": "text/vtt; charset=utf-8",
    }.items(),
)
def test_each_format_has_its_content_type(server, name, kind):
    answer = post(server, {"response_format": name}, SHORT)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert len(answer.headers["x-request-id"]) == 32 and float(answer.headers["openai-processing-ms"]) >= 0
    assert answer.headers["x-content-type-options"] == "nosniff" and "default-src" in str(answer.headers)


def test_verbose_json_fills_every_field_that_typed_clients_demand(client, transcript):
    answer = ask(client, response_format="verbose_json")
    assert (answer.text, answer.duration, answer.language) == (transcript.text, round(transcript.duration_s, 3), "und")
    assert answer.words is None
    assert [segment.text for segment in answer.segments] == [segment.text for segment in transcript.segments]
    for number, segment in enumerate(answer.segments):
        fields = segment.model_dump()
        assert all(fields[name] is not None for name in SEGMENT_FIELDS), fields
        assert segment.id == number and segment.start < segment.end and segment.avg_logprob <= 0
    ids = [number for segment in answer.segments for number in segment.tokens]
    assert [TOKENIZER.tokens[number] for number in ids] == [token.text for token in transcript.tokens]


@pytest.mark.parametrize(
    ("granularities", "has_words", "has_segments"),
    [(["segment"], False, True), (["word"], True, False), (["word", "segment"], True, True)],
)
def test_granularities_choose_words_and_segments(client, transcript, granularities, has_words, has_segments):
    answer = ask(client, response_format="verbose_json", timestamp_granularities=granularities)
    assert (answer.words is not None, answer.segments is not None) == (has_words, has_segments)
    if has_words:
        assert [(w.word, w.start, w.end) for w in answer.words] == [
            (w.text, round(w.start_s, 3), round(w.end_s, 3)) for w in transcript.words
        ]


def test_logprobs_spell_the_text(client, transcript):
    tokens = ask(client, include=["logprobs"]).logprobs
    assert "".join(token.token for token in tokens) == transcript.text
    assert [bytes(map(int, token.bytes)).decode() for token in tokens] == [token.token for token in tokens]
    least = min(token.confidence for token in transcript.tokens)
    assert math.isclose(min(token.logprob for token in tokens), math.log(least), abs_tol=1e-4)


def test_silence_is_an_empty_text_with_its_reason(server):
    silence = sound_file(np.zeros(RATE_HZ, np.float32))
    answer = post(server, {}, silence)
    assert answer.json["text"] == "" and answer.headers["x-warning"].startswith("no speech: silent")
    assert post(server, {"response_format": "srt"}, silence).body == b""
    verbose = post(server, {"response_format": "verbose_json"}, silence).json
    assert verbose["segments"] == [] and verbose["duration"] == 1.0


# ── events ──


def test_the_deltas_of_a_stream_are_the_text(client, transcript):
    with ask(client, stream=True, include=["logprobs"]) as stream:
        *deltas, done = list(stream)
    assert len(deltas) == 3 and {delta.type for delta in deltas} == {"transcript.text.delta"}
    assert "".join(delta.delta for delta in deltas) == done.text == transcript.text
    tokens = [token.token for delta in deltas for token in delta.logprobs]
    assert tokens == [token.token for token in done.logprobs] and "".join(tokens) == done.text
    assert done.type == "transcript.text.done" and done.usage.total_tokens == done.usage.input_tokens + len(
        transcript.tokens
    )


def test_a_stream_on_the_wire(server):
    answer = post(server, {"stream": "true", "response_format": "text"}, LONG)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    *events, end, rest = answer.body.decode().split("\n\n")
    assert end == "data: [DONE]" and rest == ""
    kinds = [json.loads(event.removeprefix("data: "))["type"] for event in events]
    assert kinds == ["transcript.text.delta"] * 3 + ["transcript.text.done"]


def test_a_stream_of_silence_is_one_empty_event(server):
    answer = post(server, {"stream": "true"}, sound_file(np.zeros(RATE_HZ, np.float32)))
    events = [json.loads(line[6:]) for line in answer.body.decode().split("\n\n")[:-2]]
    assert [(event["type"], event["text"]) for event in events] == [("transcript.text.done", "")]


def test_a_stream_that_breaks_off_raises_in_the_client(service):
    class Failing:
        def __getattr__(self, name):
            return getattr(service.engine, name)

        async def recognise(self, decoded, **options):
            recognitions = service.engine.recognise(decoded)
            yield await anext(recognitions)
            await recognitions.aclose()
            raise RuntimeError("the secret text of a user")

    with (
        serving(service, engine=Failing()) as broken,
        logged() as lines,
        openai.OpenAI(base_url=f"{broken.url}/v1", api_key="any") as client,
        ask(client, stream=True) as stream,
    ):
        events = iter(stream)
        assert next(events).delta
        with pytest.raises(openai.APIError, match="the server failed on this request"):
            next(events)
    assert any("broke off (RuntimeError)" in line for line in lines) and "secret" not in str(lines)


# ── fields ──


@pytest.mark.parametrize("brackets", ["", "[]"])
def test_lists_are_repeated_with_or_without_brackets(server, brackets):
    parts = [
        ("response_format", "verbose_json"),
        *((f"timestamp_granularities{brackets}", g) for g in ("word", "segment")),
    ]
    answer = post_parts(
        server, [("file", SHORT), *parts, (f"keywords{brackets}", "foo"), (f"keywords{brackets}", "bar")]
    )
    assert {"words", "segments"} <= set(answer.json) and "x-ignored" not in answer.headers
    assert "logprobs" in post_parts(server, [(f"include{brackets}", "logprobs"), ("file", SHORT)]).json


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({}, None),
        ({"temperature": "0.0", "chunking_strategy": "auto", "prompt": "", "language": ""}, None),
        ({"temperature": "0.4"}, "temperature"),
        ({"prompt": "a b", "language": "de"}, "prompt, language"),
        ({"hotwords": "foo bar", "keywords[]": "foo"}, None),
        ({"languages[]": "en", "known_speaker_names[]": "x"}, "languages, known_speaker_names"),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.5"}, "chunking_strategy"),
        ({"chunking_strategy": '{"type": "server_vad"}'}, "chunking_strategy"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"response_format": "text", "include[]": "logprobs"}, "include"),
        ({"unknown_field": "x"}, None),
    ],
)
def test_what_is_not_honoured_is_said(server, fields, ignored):
    answer = post(server, fields, SHORT)
    assert (answer.status, answer.headers.get("x-ignored")) == (200, ignored)


def test_hot_words_change_the_text(server, service):
    word = service.transcriber.transcribe(SHORT).text.split()[-1]
    hot = f"{word[:-1]}{'b' if word[-1] == 'a' else 'a'}"  # the same with another last letter
    for fields in ({"hotwords": f"{hot} :20"}, {"keywords[]": f"{hot} :20"}, {"hotwords": f"zzz, {hot} :20"}):
        assert hot in post(server, fields, SHORT).json["text"].split()
        assert hot in post(server, fields | {"stream": "true"}, SHORT).body.decode()
    assert "the model cannot write" in post(server, {"hotwords": "zzz"}, SHORT).headers["x-warning"]
    assert service.engine.compilations_after_ready == 0


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": "xml"}, "response_format", "expected one of json, text, srt, verbose_json, vtt"),
        ({"response_format": "diarized_json"}, "response_format", "does not tell speakers apart"),
        ({"temperature": "2"}, "temperature", "expected a number from 0 to 1, found '2'"),
        ({"temperature": "nan"}, "temperature", "expected a number"),
        ({"stream": "maybe"}, "stream", "expected true or false"),
        ({"stream": "true", "response_format": "srt"}, "stream", "needs response_format json or text, not srt"),
        ({"timestamp_granularities[]": "letter"}, "timestamp_granularities[]", "expected word or segment"),
        ({"include[]": "x"}, "include[]", "expected logprobs"),
        ({"hotwords": ",".join(f"w{i}" for i in range(101))}, "hotwords", "at most 100 words of at most 64 characters"),
        ({"keywords[]": "x" * 65}, "keywords[]", "at most 100 words of at most 64 characters"),
        ({"hotwords": "x :two"}, "hotwords", "expected a number behind ' :'"),
        ({"chunking_strategy": "[1]"}, "chunking_strategy", "expected auto, or a JSON object"),
        ({"chunking_strategy": '{"type": "x"}'}, "chunking_strategy", "expected the type server_vad"),
    ],
)
def test_a_value_without_sense_is_refused_by_its_name(server, fields, param, message):
    answer = post(server, fields, SHORT)
    assert answer.status == 400 and answer.error["param"] == param and message in answer.error["message"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("model", "tiny")], "the form has no part of this name"),
        ([("file", b"")], "the file is empty"),
        ([("file", "a text")], "curl needs an @"),
        ([("file", SHORT), ("file", SHORT)], "expected one sound, found 2"),
        ([("file", SHORT), ("stream", "true"), ("stream", "false")], "expected one value, found 2"),
    ],
)
def test_a_form_without_one_sound_is_refused(server, parts, message):
    answer = post_parts(server, parts)
    assert answer.status == 400 and message in answer.error["message"]


# ── other routes ──


def test_models_are_listed_and_described(client):
    assert [model.id for model in client.models.list()] == ["tiny", "whisper-1", "org/tiny"]
    assert client.models.retrieve("org/tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match="'x' does not exist; use tiny, whisper-1, org/tiny") as error:
        client.models.retrieve("x")
    assert (error.value.param, error.value.code) == ("model", "model_not_found")


def test_an_unknown_model_is_refused_and_none_is_the_only_one(server, client):
    with pytest.raises(openai.NotFoundError):
        client.audio.transcriptions.create(file=("a.wav", SHORT), model="whisper-large")
    assert post(server, {}, SHORT).status == post(server, {"model": ""}, SHORT).status == 200


def test_a_translation_is_refused(server):
    answer = call(server, "POST", "/v1/audio/translations", repeated([("file", SHORT)]), {"content-type": "x"})
    assert answer.status == 404 and "does not translate; use /v1/audio/transcriptions" in answer.error["message"]


def test_other_paths_and_methods_are_refused_in_the_same_form(server):
    assert (answer := call(server, path="/nowhere")).status == 404 and "no such route" in answer.error["message"]
    answer = call(server, path=TRANSCRIPTIONS)
    assert (
        answer.status == 405 and answer.headers["allow"] == "POST" and answer.error["type"] == "invalid_request_error"
    )


@pytest.mark.parametrize("path", ["/healthz", "/health", "/ping", "/readyz"])
def test_probes_answer(server, path):
    assert call(server, path=path).status == call(server, "HEAD", path).status == 200


def test_the_interface_describes_itself(server):
    description = call(server, path="/openapi.json").json
    form = description["paths"][TRANSCRIPTIONS]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"file", "model", "timestamp_granularities[]"} <= set(form["properties"])
    page = call(server, path="/docs")
    assert b"timestamp_granularities[]" in page.body and b"<script" not in page.body
    assert "script" not in page.headers["content-security-policy"]


def test_metrics_count_requests_and_hold_no_text_of_users(server, client):
    post(server, {"model": "a-secret-name"}, SHORT)
    call(server, path="/a-secret-path?key=a-secret-key")
    ask(client, SHORT, response_format="vtt")
    text = call(server, path="/metrics").body.decode()
    assert f'asr_requests_total{{format="vtt",route="{TRANSCRIPTIONS}",status="200"}}' in text
    assert 'asr_rejections_total{reason="model_not_found"}' in text
    assert "asr_compilations_after_ready 0.0" in text
    assert "secret" not in text


def test_the_log_holds_no_text_of_users(server, client):
    with logged() as lines:
        ask(client, SHORT)
        post(server, {"prompt": "a-secret-prompt", "model": "a-secret-name"}, SHORT)
        call(server, path="/a-secret-path")
    assert len(lines) == 3 and all(" ms" in line for line in lines)
    assert "secret" not in str(lines) and "talk.wav" not in str(lines)


# ── other clients ──


def test_every_kind_of_file_is_recognised_by_its_bytes(server, service):
    wave = burst(1, seed=7)
    for kind in ("FLAC", "OGG", "MP3"):
        sound = sound_file(wave, kind=kind)
        assert post(server, {}, sound).json["text"] == service.transcriber.transcribe(sound).text


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_sends_a_file(server, service, tmp_path):
    path = tmp_path / "a name with blanks.wav"
    path.write_bytes(LONG)
    command = ["curl", "-sS", f"{server.url}{TRANSCRIPTIONS}", "-F", f"file=@{path}", "-F", "response_format=text"]
    done = subprocess.run([*command, "-H", "Transfer-Encoding: chunked"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (service.transcriber.transcribe(LONG).to_text(), "")


def test_a_body_without_a_length_is_read(server, service):
    host, port = server.listener.getsockname()
    connection = http.client.HTTPConnection(host, port, timeout=30)
    body = repeated([("file", SHORT)])
    pieces = (body[i : i + 1000] for i in range(0, len(body), 1000))
    headers = {"content-type": "multipart/form-data; boundary=b"}
    connection.request("POST", TRANSCRIPTIONS, pieces, headers, encode_chunked=True)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["text"] == service.transcriber.transcribe(SHORT).text


# ── the document ──


def rows_of(heading):
    """Return the cells of the table below a heading of docs/serving.md."""
    text = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.M | re.S)[1]
    return [row.strip("|").split("|") for row in re.findall(r"^\|.*`.*\|$", section, re.M)]


def test_the_document_lists_every_field_format_limit_and_code():
    cells = [[cell.strip() for cell in row] for row in rows_of("Fields of a transcription")]
    assert [(name.strip("`"), meaning) for name, meaning in cells] == list(FIELDS.items())
    named = {row[0].strip(" `"): row[1].strip() for row in rows_of("Limits")}
    assert set(named) == set(ServeSettings().numbers())
    for name, value in ServeSettings().numbers().items():
        number, _, unit = named[name].partition(" ")
        assert float(number) * {"": 1, "MiB": 2**20}[unit] == value, name
    codes = {code for row in rows_of("Errors") for code in re.findall(r"`(\w+)`", row[1])}
    files = [path for path in SERVE.glob("*.py") if not path.name.startswith("realtime")]  # which answers in events
    sources = "".join(path.read_text() for path in files)
    assert codes == set(re.findall(r'code="(\w+)"', sources))
