"""OpenAI's realtime interface against a real server: by the `openai` package, and by hostile clients."""

import base64
import contextlib
import copy
import json
import time
from types import SimpleNamespace

import numpy as np
import openai
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from asr.serve.engine_errors import Overloaded, TooFarBehind
from asr.serve.service import Service
from serve.fake_live import FakeLive
from serve.live_service import SETTINGS as LIVE_SETTINGS
from serve.live_service import make_models, speech
from serve.running_server import SETTINGS, make_transcriber, serving

PATIENCE_S = 30
RATE_HZ = 24_000
TRANSCRIPTION = "conversation.item.input_audio_transcription"
VAD, NO_VAD = {"type": "server_vad"}, None
# The `openai` package opens its websocket in a way that websockets 17 no longer likes.
pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")


@pytest.fixture(scope="module")
def idle_service():
    """A service that takes work without an engine that was started: nothing here needs the device."""
    service = Service(make_transcriber(), SETTINGS, name="tiny", aliases=["gpt-4o-transcribe"])
    service.engine.ready = True
    return service


@contextlib.contextmanager
def live_server(idle_service, *, limits=None, keys=(), **options):
    other = copy.copy(idle_service)
    other.live, other.engine = FakeLive(**options), copy.copy(idle_service.engine)
    with serving(other, limits=limits, keys=keys, engine=other.engine) as server:
        yield server


@pytest.fixture(scope="module")
def plain(idle_service):
    with live_server(idle_service) as server:
        yield server


@pytest.fixture(scope="module")
def detecting(idle_service):
    with live_server(idle_service, has_second_pass=True) as server:
        yield server


def pcm(pattern, rate_hz=RATE_HZ):
    """A tenth of a second for each character: loud, or silent for a blank."""
    loud = np.array([c != " " for c in pattern], "<i2")
    return np.repeat(1000 * loud, rate_hz // 10).astype("<i2").tobytes()


def in_base64(content):
    return base64.b64encode(content).decode()


def append(content):
    return {"type": "input_audio_buffer.append", "audio": in_base64(content)}


COMMIT, CLEAR = {"type": "input_audio_buffer.commit"}, {"type": "input_audio_buffer.clear"}


def update(**sound):
    return {"type": "session.update", "session": {"type": "transcription", "audio": {"input": sound}}}


class Socket:
    """A client that looks at each event."""

    def __init__(self, socket):
        self.socket, self.created = socket, json.loads(socket.recv(PATIENCE_S))

    def send(self, *events):
        for event in events:
            self.socket.send(event if isinstance(event, str | bytes) else json.dumps(event))

    def receive(self, stop):
        """Return the events up to the first of a type."""
        events = []
        while not events or events[-1]["type"] != stop:
            events.append(json.loads(self.socket.recv(PATIENCE_S)))
            assert events[-1]["event_id"].startswith("event_")
            assert events[-1]["type"] == stop or events[-1]["type"] != "error", events[-1]
        return events

    def ask(self, event, stop):
        self.send(event)
        return self.receive(stop)[-1]

    def error(self, event):
        error = self.ask(event, "error")["error"]
        assert set(error) == {"message", "type", "param", "code", "event_id"}
        return error

    def close_code(self):
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                self.socket.recv(PATIENCE_S)
        return closed.value.rcvd.code


@contextlib.contextmanager
def open_socket(server, query="?intent=transcription", **options):
    host, port = server.listener.getsockname()[:2]
    with connect(f"ws://{host}:{port}/v1/realtime{query}", open_timeout=PATIENCE_S, **options) as socket:
        yield Socket(socket)


def types(events):
    return [event["type"].removeprefix("input_audio_buffer.").removeprefix("conversation.item.") for event in events]


def openai_client(server, key="any"):
    addresses = {"base_url": f"{server.url}/v1"}
    addresses["websocket_base_url"] = addresses["base_url"].replace("http", "ws")  # openai 2.0 takes wss otherwise
    return openai.OpenAI(**addresses, api_key=key, max_retries=0)


def converse_with_openai(server, content, *, turn_detection, model="tiny", key="any"):
    """Append a sound in pieces with the `openai` package; return the typed events up to the last item."""
    client, events = openai_client(server, key), []
    with client.realtime.connect(model=model, extra_query={"intent": "transcription"}) as connection:
        events.append(connection.recv())
        connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": RATE_HZ},
                        "transcription": {"model": model, "language": "en"},
                        "turn_detection": turn_detection,
                        "noise_reduction": {"type": "near_field"},
                    }
                },
            }
        )
        for start in range(0, len(content), 1001):  # cuts within samples
            connection.input_audio_buffer.append(audio=in_base64(content[start : start + 1001]))
        connection.input_audio_buffer.commit()
        connection.send({"type": "input_audio_buffer.clear"})
        while events[-1].type != "input_audio_buffer.cleared":
            events.append(connection.recv())
    return events


def test_the_openai_package_commits_and_reads_deltas_that_join_to_the_transcript(plain):
    events = converse_with_openai(plain, pcm("abc"), turn_detection=None, model="gpt-4o-transcribe")
    assert all(type(event).__name__ != "dict" for event in events)
    created, updated, *rest = events
    assert created.type == "session.created" and updated.type == "session.updated"
    assert updated.session.type == "transcription" and updated.session.audio.input.turn_detection is None
    assert updated.session.audio.input.transcription.model == "gpt-4o-transcribe"
    by_type = {event.type: event for event in rest}
    deltas = [event for event in rest if event.type == f"{TRANSCRIPTION}.delta"]
    completed = by_type[f"{TRANSCRIPTION}.completed"]
    assert "".join(event.delta for event in deltas) == completed.transcript == "w0 w1 w2"
    assert len(deltas) == 3 and completed.usage.type == "duration" and completed.usage.seconds == 0.3
    order = [event.type for event in rest if event not in deltas]
    assert order == ["input_audio_buffer.committed", "conversation.item.added", f"{TRANSCRIPTION}.completed",
                     "conversation.item.done", "input_audio_buffer.cleared"]  # fmt: skip
    item = by_type["conversation.item.done"].item
    assert item.role == "user" and item.content[0].transcript == "w0 w1 w2"
    ids = {item.id, completed.item_id, by_type["input_audio_buffer.committed"].item_id}
    assert ids | {event.item_id for event in deltas} == {item.id}


def test_the_openai_package_reads_turns_of_the_detector_and_the_second_pass(detecting):
    events = converse_with_openai(detecting, pcm("ab  c d"), turn_detection=VAD)
    assert events[1].session.audio.input.turn_detection.type == "server_vad"
    completed = [event for event in events if event.type == f"{TRANSCRIPTION}.completed"]
    assert [event.transcript for event in completed] == ["W0 W1", "W4", "W6"]  # of the second pass
    assert [round(event.usage.seconds, 3) for event in completed] == [0.3, 0.2, 0.1]
    for event in completed:
        deltas = [each.delta for each in events if each.type == f"{TRANSCRIPTION}.delta"
                  and each.item_id == event.item_id]  # fmt: skip
        assert "".join(deltas).upper() == event.transcript
    started = [event for event in events if event.type == "input_audio_buffer.speech_started"]
    stopped = [event for event in events if event.type == "input_audio_buffer.speech_stopped"]
    assert [event.audio_start_ms for event in started] == [0, 400, 600]
    assert [event.audio_end_ms for event in stopped] == [300, 600, 700]
    committed = [event for event in events if event.type == "input_audio_buffer.committed"]
    assert [event.previous_item_id for event in committed] == [None, *(event.item_id for event in committed[:-1])]
    assert [e.item_id for e in committed] == [e.item_id for e in started] == [e.item_id for e in completed]


def test_text_comes_before_the_commit_and_a_second_sound_follows(plain):
    with open_socket(plain, "") as socket:
        assert socket.created["type"] == "session.created"
        first = socket.ask(append(pcm("a")), f"{TRANSCRIPTION}.delta")
        assert first["delta"] == "w0"
        socket.send(COMMIT)
        events = socket.receive("conversation.item.done")
        assert types(events) == ["committed", "added", "input_audio_transcription.completed", "done"]
        socket.send(append(pcm("ab")), COMMIT)
        more = socket.receive("conversation.item.done")
        item = more[-1]["item"]
        assert item["content"][0]["transcript"] == "w0 w1" and item["id"] != first["item_id"]
        assert more[-1]["previous_item_id"] == first["item_id"]


def test_several_segments_are_one_item_without_turn_detection(detecting):
    with open_socket(detecting) as socket:
        assert socket.created["session"]["audio"]["input"]["turn_detection"] == VAD  # as there is a detector
        updated = socket.ask(update(turn_detection=NO_VAD), "session.updated")
        assert updated["session"]["audio"]["input"]["turn_detection"] is None
        socket.send(append(pcm("a b")), COMMIT)
        events = socket.receive("conversation.item.done")
        assert events[-1]["item"]["content"][0]["transcript"] == "W0 W2"
        assert not any("speech" in kind for kind in types(events))


def test_times_of_the_next_sound_count_from_the_first_one(detecting):
    with open_socket(detecting) as socket:
        socket.send(append(pcm("ab")), COMMIT)
        socket.receive("conversation.item.done")
        started = socket.ask(append(pcm(" a ")), "input_audio_buffer.speech_started")
        assert started["audio_start_ms"] == 300
        stopped = socket.receive("input_audio_buffer.speech_stopped")[-1]
        assert stopped["audio_end_ms"] == 500


def test_cleared_sound_is_forgotten_and_silence_is_no_turn(detecting):
    with open_socket(detecting) as socket:
        socket.send(append(pcm("a")))
        socket.receive(f"{TRANSCRIPTION}.delta")
        assert types([socket.ask(CLEAR, "input_audio_buffer.cleared")]) == ["cleared"]
        assert detecting.service.live.sessions[-1].is_closed
        socket.send(append(pcm("  ")), COMMIT, CLEAR)
        assert types(socket.receive("input_audio_buffer.cleared")) == ["cleared"]


def test_the_older_form_is_answered_in_its_form(plain):
    with open_socket(plain) as socket:
        session = {"input_audio_format": "pcm16", "turn_detection": None, "modalities": ["text"]}
        session |= {"input_audio_transcription": {"model": "tiny", "prompt": ""}}
        updated = socket.ask(
            {"type": "transcription_session.update", "session": session}, "transcription_session.updated"
        )
        assert updated["session"]["input_audio_transcription"] == {"model": "tiny"}
        assert "audio" not in updated["session"]
        socket.send(append(pcm("a")), COMMIT)
        assert "conversation.item.created" in [event["type"] for event in socket.receive("conversation.item.done")]


def test_the_rate_is_that_of_the_session(plain):
    with open_socket(plain) as socket:
        socket.ask(update(format={"type": "audio/pcm", "rate": 8000}), "session.updated")
        socket.send(append(pcm("ab", 8000)), COMMIT)
        completed = socket.receive(f"{TRANSCRIPTION}.completed")[-1]
        assert completed["transcript"] == "w0 w1" and completed["usage"] == {"type": "duration", "seconds": 0.2}
        assert plain.service.live.sessions[-1].rate_hz == 8000


NESTED = "[" * 100_000 + "]" * 100_000
MISTAKES = {
    "not JSON": ("hello", None, "invalid_value"),
    "nested": (NESTED, None, "invalid_value"),
    "a list": ([1], "type", "invalid_value"),
    "no type": ({"event_id": "e1"}, "type", "invalid_value"),
    "another event": ({"type": "response.create"}, "type", "invalid_value"),
    "no base64": ({"type": "input_audio_buffer.append", "audio": "QU#F#Q=="}, "audio", "invalid_value"),
    "other letters": ({"type": "input_audio_buffer.append", "audio": "äöü"}, "audio", "invalid_value"),
    "a number": ({"type": "input_audio_buffer.append", "audio": 7}, "audio", "invalid_value"),
    "nothing": ({"type": "input_audio_buffer.append"}, "audio", "invalid_value"),
    "no sound": (COMMIT, None, "input_audio_buffer_commit_empty"),
    "a conversation": ({"type": "session.update", "session": {"type": "realtime"}}, "session.type", "invalid_value"),
    "no object": ({"type": "session.update", "session": 7}, "session", "invalid_value"),
    "mu-law": (update(format={"type": "audio/pcmu"}), "session.audio.input.format.type", "invalid_value"),
    "a high rate": (update(format={"rate": 10**9}), "session.audio.input.format.rate", "invalid_value"),
    "a rate in words": (update(format={"rate": "24000"}), "session.audio.input.format.rate", "invalid_value"),
    "semantic": (update(turn_detection={"type": "semantic_vad"}), "session.audio.input.turn_detection.type",
                 "invalid_value"),
    "no detector": (update(turn_detection=VAD), "session.audio.input.turn_detection", "not_supported"),
    "no model": (update(transcription={"model": "x"}), "model", "model_not_found"),
    "a model of numbers": (update(transcription={"model": [1]}), "session.audio.input.transcription.model",
                           "invalid_value"),
    "an old format": ({"type": "transcription_session.update", "session": {"input_audio_format": "g711_ulaw"}},
                      "session.input_audio_format", "invalid_value"),
}  # fmt: skip


def test_mistakes_are_answered_and_the_conversation_goes_on(plain):
    with open_socket(plain) as socket:
        for name, (event, param, code) in MISTAKES.items():
            error = socket.error(event)
            assert (error["param"], error["code"]) == (param, code), (name, error)
            assert error["type"] == "invalid_request_error" and error["message"] and len(error["message"]) < 400
        assert socket.error({"type": "x", "event_id": "mine\ud800"})["event_id"] == "mine\ufffd"
        socket.send(append(pcm("a")))
        socket.receive(f"{TRANSCRIPTION}.delta")
        assert "commit or clear" in socket.error(update(format={"rate": 8000}))["message"]
        socket.ask(update(format={"rate": RATE_HZ}), "session.updated")
        socket.send(COMMIT)
        assert socket.receive(f"{TRANSCRIPTION}.completed")[-1]["transcript"] == "w0"


def ending(server, *events, query="", **options):
    """Return the error that ends a conversation, and the code that closes it."""
    with open_socket(server, query, **options) as socket:
        if socket.created["type"] == "error":
            return socket.created["error"], socket.close_code()
        socket.send(*events)
        error = socket.receive("error")[-1]["error"]
        return error, socket.close_code()


def test_what_ends_a_conversation_is_said_before_it_is_closed(idle_service, plain, server_without_live):
    error, code = ending(server_without_live)
    assert error["code"] == "not_supported" and "--streaming" in error["message"] and code == 1008
    error, code = ending(plain, query="?model=gpt-9")
    assert error["code"] == "model_not_found" and error["param"] == "model" and code == 1008
    error, code = ending(plain, b"\0\0")
    assert "binary" in error["message"] and code == 1008
    with open_socket(plain) as socket:
        socket.send(append(bytes(1 << 20)))
        assert socket.close_code() == 1009
    with live_server(idle_service, limits={"websocket_idle_s": 0.2}) as server:
        error, code = ending(server)
        assert "0.2 s" in error["message"] and code == 1008
    with live_server(idle_service, limits={"websocket_session_s": 0.2}) as server:
        error, code = ending(server)
        assert error["code"] == "session_expired" and code == 1008
    with live_server(idle_service, limits={"max_sound_s_per_minute": 0.25}) as server:
        error, code = ending(server, append(pcm("ab")), append(pcm("ab")), COMMIT)
        assert error["code"] == "rate_limit_exceeded" and code == 1013


@pytest.fixture(scope="module")
def server_without_live(idle_service):
    with serving(idle_service) as server:
        yield server


def test_what_recognition_fails_with_ends_the_conversation(idle_service):
    with live_server(idle_service) as server:
        live = server.service.live
        live.error = Overloaded(3.0)
        error, code = ending(server, append(pcm("a")))
        assert error["code"] == "overloaded" and error["type"] == "rate_limit_error" and code == 1013
        assert live.sessions[-1].is_closed
        live.error = TooFarBehind("send it as fast as it is spoken")
        error, code = ending(server, append(pcm("a")))
        assert error["code"] == "too_fast" and "as fast as" in error["message"] and code == 1013
        live.error = None
        with open_socket(server) as socket:
            socket.send(append(pcm("a")))
            socket.receive(f"{TRANSCRIPTION}.delta")
            live.sessions[-1].fail(ValueError("a secret"))
            error = socket.receive("error")[-1]["error"]
            assert error["type"] == "server_error" and "secret" not in error["message"]
            assert socket.close_code() == 1011
        with open_socket(server) as socket:
            socket.send(append(pcm("a")))
            socket.receive(f"{TRANSCRIPTION}.delta")
        wait_until(lambda: live.sessions[-1].is_closed)  # the client left
        wait_until(lambda: server.service.metrics.registry.get_sample_value("asr_sessions") == 0)


def wait_until(is_so):
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_server_that_stops_finishes_what_was_said(idle_service):
    with live_server(idle_service, has_second_pass=True) as server, open_socket(server) as socket:
        socket.send(append(pcm("a")))
        socket.receive(f"{TRANSCRIPTION}.delta")
        server.service.engine.draining = True
        assert socket.receive(f"{TRANSCRIPTION}.completed")[-1]["transcript"] == "W0"
        assert socket.receive("error")[-1]["error"]["code"] == "stopping" and socket.close_code() == 1013


def test_keys_come_as_the_openai_package_and_browsers_send_them(idle_service):
    key = "a-key-of-enough-characters"
    with live_server(idle_service, keys=[key]) as server:
        events = converse_with_openai(server, pcm("a"), turn_detection=None, key=key)
        assert any(event.type == f"{TRANSCRIPTION}.completed" for event in events)
        with open_socket(server, subprotocols=["realtime", f"openai-insecure-api-key.{key}"]) as socket:
            assert socket.socket.subprotocol == "realtime" and socket.created["type"] == "session.created"
        with pytest.raises(Exception, match="401"):
            converse_with_openai(server, pcm("a"), turn_detection=None, key="another")


def test_a_real_model_is_heard_as_by_the_library():
    streaming, offline = make_models()
    service, samples_n = Service(offline, LIVE_SETTINGS, name="tiny", streaming=streaming), speech(1)
    service.start()
    try:
        with serving(service) as server:
            turns = converse_with_openai(server, samples_n.tobytes(), turn_detection=VAD)
        one_pass = copy.copy(service)
        one_pass.live = SimpleNamespace(has_second_pass=False, open=lambda rate_hz, _: service.live.open(rate_hz))
        with serving(one_pass) as server:
            whole = converse_with_openai(server, samples_n.tobytes(), turn_detection=NO_VAD)
    finally:
        service.stop()
    stream = streaming.stream(second_pass=offline, rate=RATE_HZ)
    finals = [event for event in stream.push(samples_n) + stream.finish() if event.final]
    texts = texts_of(turns)
    assert [transcript for transcript, _ in texts] == [event.transcript.text for event in finals]
    assert [deltas for _, deltas in texts] == [event.partial for event in finals] and len(finals) > 1
    assert texts_of(whole) == [(stream.text, stream.text)]  # without a second pass, in all segments


def texts_of(events):
    """Return the transcript of each item, and its deltas, joined."""
    deltas = [event for event in events if event.type == f"{TRANSCRIPTION}.delta"]
    completed = [event for event in events if event.type == f"{TRANSCRIPTION}.completed"]
    return [(c.transcript, "".join(d.delta for d in deltas if d.item_id == c.item_id)) for c in completed]
