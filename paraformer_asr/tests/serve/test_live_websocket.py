"""FunASR's modes online and 2pass against a real server, by clients of both generations and by hostile ones."""

import contextlib
import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from asr.errors import UserError
from asr.serve import __main__ as command
from asr.serve.live import LiveEngine
from asr.serve.selftest import run_selftest
from asr.serve.service import Service
from asr.serve.streaming_model import check_streaming
from serve.live_service import LevelDetector, make_models, speech
from serve.running_server import SETTINGS, call, logged, make_server, make_transcriber, save_run, serving
from serve.test_websocket import close_of, lines_with_times, open_socket, receive, slices, wait_until
from serve.test_websocket import state as frame_of
from tiny_model import RATE_HZ

NUM_STREAMS = 3
SPEECH = speech(1, parts=3)
END = json.dumps({"is_speaking": False})
MODES = pytest.mark.parametrize("mode", ["online", "2pass"])


@pytest.fixture(scope="module")
def service():
    streaming, _ = make_models()
    offline = make_transcriber()
    offline.vad = LevelDetector()
    streaming.stream(second_pass=offline).push(SPEECH)  # compiled before the service is ready, for `expected`
    settings = dataclasses.replace(SETTINGS, max_streams=NUM_STREAMS, batch_rows=1)
    service = Service(offline, settings, name="tiny", streaming=streaming)
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def server(service):
    with serving(service) as server:
        yield server


@pytest.fixture(autouse=True)
def every_slot_comes_back(service):
    yield
    wait_until(lambda: service.live.num_streams == 0 and service.engine.num_requests == 0)
    assert service.engine.compilations_after_ready == 0


@pytest.fixture(scope="module")
def expected(service):
    """Return the text of a stream, and the transcripts of its segments in the second pass."""
    stream = service.live.transcriber.stream(second_pass=service.transcriber)
    events = stream.push(SPEECH) + stream.finish()
    transcripts = [event.transcript for event in events if event.final]
    assert len(transcripts) == 3
    return stream.text, transcripts


def state(mode, **changes):
    return frame_of(mode=mode, **changes)


def python_client(socket, content, mode, *, acknowledged, **changes):
    """What `funasr_wss_client.py` does: since July 2026 it waits for the end's acknowledgement."""
    socket.send(state(mode, **changes))
    for piece in slices(content, 961):
        socket.send(piece)
    socket.send(json.dumps({"is_speaking": False} | ({"is_end": True} if acknowledged else {})))
    return answers(socket, acknowledged)


def answers(socket, acknowledged):
    """Return the frames up to the last; only that one is final."""
    frames = []
    while True:
        frame = receive(socket)
        if frame.get("is_end"):
            assert frame["is_final"] is True and acknowledged and "text" not in frame
            return frames
        frames.append(frame)
        if frame["is_final"]:
            assert not acknowledged
            return frames


def shown(frames):
    """Return what a client shows: increments, which the text of a segment replaces."""
    texts, new = [], ""
    for frame in frames:
        if frame["mode"] == "2pass-offline":
            texts, new = [*texts, frame["text"]], ""
        else:
            new += frame["text"]
    return "".join(texts) + new


@pytest.mark.parametrize("acknowledged", [False, True])
def test_online_sends_what_is_new(server, expected, acknowledged):
    with open_socket(server, subprotocols=["binary"]) as socket:
        for _ in range(2):  # a list of files goes over one connection
            frames = python_client(socket, SPEECH.tobytes(), "online", acknowledged=acknowledged)
            assert {frame["mode"] for frame in frames} == {"online"} and len(frames) > 3
            assert "".join(frame["text"] for frame in frames) == expected[0]
            assert all(set(frame) == {"mode", "wav_name", "text", "is_final"} for frame in frames)


@pytest.mark.parametrize("acknowledged", [False, True])
def test_2pass_replaces_what_was_new_by_each_segment(server, expected, acknowledged):
    text, transcripts = expected
    with open_socket(server) as socket:
        frames = python_client(socket, SPEECH.tobytes(), "2pass", acknowledged=acknowledged, chunk_size="0, 8, 4")
    modes = [frame["mode"] for frame in frames]
    assert set(modes) == {"2pass-online", "2pass-offline"} and modes[-1] == "2pass-offline"
    assert "".join(frame["text"] for frame in frames if frame["mode"] == "2pass-online") == text
    finals = [frame for frame in frames if frame["mode"] == "2pass-offline"]
    assert [frame["text"].strip() for frame in finals] == [transcript.text for transcript in transcripts]
    assert shown(frames) == " ".join(transcript.text for transcript in transcripts)
    for frame, transcript in zip(finals, transcripts, strict=True):
        lines = lines_with_times(frame["text"], frame["timestamp"])
        starts_s = [word.start_s for word in transcript.words]
        assert [line[0] for line in lines] == pytest.approx(starts_s, abs=1e-3)  # from the start of the stream


@MODES
def test_the_html5_client_leaves_the_rate_out_and_repeats_the_settings_at_the_end(server, service, mode):
    second = service.transcriber if mode == "2pass" else None
    stream = service.live.transcriber.stream(rate=16_000, second_pass=second)
    samples_n = np.repeat(SPEECH, 2)
    events = stream.push(samples_n) + stream.finish()
    h5 = {"chunk_size": [5, 10, 5], "wav_name": "h5", "chunk_interval": 10, "mode": mode}
    with open_socket(server) as socket:
        socket.send(json.dumps({**h5, "is_speaking": True, "itn": False}))
        for piece in slices(samples_n.tobytes(), 1920):
            socket.send(piece)
        socket.send(json.dumps({**h5, "is_speaking": False}))
        frames = answers(socket, False)
    texts = [event.transcript.text for event in events if event.final]
    assert shown(frames) == (" ".join(texts) if second else stream.text) != ""
    assert {frame["wav_name"] for frame in frames} == {"h5"}


@MODES
def test_text_comes_while_the_client_speaks(server, mode):
    with open_socket(server) as socket:
        socket.send(state(mode))
        socket.send(SPEECH.tobytes())
        frame = receive(socket)
        assert frame["text"] and not frame["is_final"] and "error" not in frame


@MODES
def test_silence_and_nothing_at_all_are_answered(server, mode):
    with open_socket(server) as socket:
        for sound in ([], [b""], [b"\0"], [bytes(RATE_HZ)]):
            socket.send(state(mode))
            for piece in sound:
                socket.send(piece)
            socket.send(END)
            (frame,) = answers(socket, False)
            assert frame["text"] == "" and frame["mode"] == {"2pass": "2pass-offline"}.get(mode, mode)
        socket.send('{"is_speaking": false, "is_end": true}')  # without a frame of settings before it
        (frame,) = answers(socket, True)
        assert frame["text"] == ""


def test_hot_words_are_for_the_second_pass(server, expected):
    word = expected[1][0].text.split()[0]
    hot = f"{word[:-1]}b"
    with open_socket(server) as socket:
        frames = python_client(socket, SPEECH.tobytes(), "2pass", acknowledged=False, hotwords=json.dumps({hot: 100}))
        assert hot in shown(frames).split() and "warning" not in frames[-1]
        frames = python_client(socket, SPEECH.tobytes(), "online", acknowledged=False, hotwords=hot)
        assert shown(frames) == expected[0] and "no hot words" in frames[-1]["warning"]


def test_all_modes_on_one_connection(server, service, expected):
    with open_socket(server) as socket:
        for mode in ("online", "offline", "2pass"):
            frames = python_client(socket, SPEECH.tobytes(), mode, acknowledged=True)
            assert frames[0]["mode"].startswith(mode)
            assert shown(frames)


def test_a_frame_of_settings_that_no_sound_follows_gives_its_slot_back(server, service):
    with open_socket(server) as socket:
        for mode in ("online", "2pass") * NUM_STREAMS:
            socket.send(state(mode))
        socket.send(state("offline"))
        socket.send(SPEECH.tobytes())
        socket.send(END)
        assert receive(socket)["mode"] == "offline" and service.live.num_streams == 0


def test_a_full_server_says_try_later(server, service, expected):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(open_socket(server)) for _ in range(NUM_STREAMS)]
        for socket in sockets:
            socket.send(state("online"))
        wait_until(lambda: service.live.num_streams == NUM_STREAMS)
        with open_socket(server) as socket:
            socket.send(state("online"))
            assert "busy" in receive(socket)["error"] and close_of(socket)[0] == 1013
        sockets[0].close()
        wait_until(lambda: service.live.num_streams < NUM_STREAMS)
        with open_socket(server) as socket:
            assert shown(python_client(socket, SPEECH.tobytes(), "online", acknowledged=True)) == expected[0]


HOSTILE = {
    "a file": ([state("online", wav_format="wav")], 1003),
    "another mode within a sound": ([state("online"), b"\0\0", state("2pass")], 1003),
    "another rate within a sound": ([state("2pass"), b"\0\0", state("2pass", audio_fs=16_000)], 1003),
    "no JSON within a sound": ([state("2pass"), SPEECH.tobytes(), "{"], 1007),
    "a minute at once": ([state("online"), bytes(60 * 2 * RATE_HZ)], 1013),
    "a large frame": ([state("online"), bytes((1 << 20) + 1)], 1009),
    "garbage": ([state("online"), b"", b"\1", np.random.default_rng(0).bytes(9999), b"\xff" * 77, "null"], 1003),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_conversation_ends_with_an_error_and_its_code(server, expected, name):
    frames, code = HOSTILE[name]
    with open_socket(server) as good, open_socket(server) as socket:
        good.send(state("online"))
        good.send(SPEECH[:5000].tobytes())
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                socket.send(frame)
            while not (error := receive(socket)).get("error"):
                pass
            assert error["text"] == "" and error["is_final"]
        assert close_of(socket)[0] == code
        good.send(state("online"))  # the same settings once more change nothing
        good.send(SPEECH[5000:].tobytes())
        good.send(END)
        assert shown(answers(good, False)) == expected[0]
        assert call(server).status == 200


def test_clients_that_vanish_leave_nothing_behind(server, service):
    rng = np.random.default_rng(1)
    for number in range(20):
        with open_socket(server) as socket:
            socket.send(state(("online", "2pass")[number % 2]))
            for _ in range(rng.integers(0, 4)):
                socket.send(rng.bytes(rng.integers(0, 9000)))
            if number % 3 == 0:
                socket.send(END)
            if number % 5 == 0:
                socket.socket.close()  # without a frame that says so


def test_a_stream_that_fails_is_answered_and_nothing_of_it_is_logged(server, service, monkeypatch):
    def run(chunks):
        raise RuntimeError("a secret")

    with logged() as lines, open_socket(server) as socket:
        monkeypatch.setattr(service.live._programs, "run", run)
        socket.send(state("online"))
        socket.send(SPEECH.tobytes())
        assert "failed on this sound" in receive(socket)["error"] and close_of(socket)[0] == 1011
    assert "secret" not in " ".join(lines)


def test_who_speaks_while_the_server_stops_gets_the_text_so_far(service, expected):
    with serving(service) as server, open_socket(server) as socket:
        server.service.engine.draining = False
        socket.send(state("2pass"))
        socket.send(SPEECH.tobytes())
        first = receive(socket)
        service.engine.draining = True
        frames = [first]
        while not (frame := receive(socket)).get("error"):
            frames.append(frame)
        service.engine.draining = False
        assert "about to stop" in frame["error"] and close_of(socket)[0] == 1013
        assert shown(frames) == " ".join(transcript.text for transcript in expected[1])


def test_2pass_without_a_detector_is_refused_in_words(server, monkeypatch):
    monkeypatch.setattr(LiveEngine, "has_second_pass", False)
    with open_socket(server) as socket:
        socket.send(state("2pass"))
        assert "--vad" in receive(socket)["error"] and close_of(socket)[0] == 1003


def test_seconds_of_sound_are_counted_for_each_key(service):
    with serving(service, limits={"max_sound_s_per_minute": 1.0}) as server, open_socket(server) as socket:
        socket.send(state("online"))
        for piece in slices(SPEECH.tobytes(), 4000):
            with contextlib.suppress(ConnectionClosed):
                socket.send(piece)
        with contextlib.suppress(ConnectionClosed):
            while not (frame := receive(socket)).get("error"):
                pass
            assert "seconds of sound" in frame["error"]
        assert close_of(socket)[0] == 1013


def test_the_selftest_speaks_live(service):
    assert "live in mode 2pass in " in run_selftest(make_server(service))


def test_metrics(server, service):
    text = call(server, path="/metrics").body.decode()
    assert "asr_live_streams 0.0" in text and 'asr_limit{name="max_streams"} 3.0' in text
    assert 'asr_requests_total{format="2pass",route="websocket",status="200"}' in text


def test_the_command_loads_the_streaming_model(monkeypatch, tmp_path):
    loaded = []

    def load(path, **options):
        loaded.append((path, options["overrides"]))
        if len(loaded) == 2:
            raise InterruptedError
        return SimpleNamespace(config=SimpleNamespace(name="x"))

    monkeypatch.setattr("asr.api.load", load)
    words = "--model m --streaming s --dtype float32 streaming.chunk_size=[0,8,4] inference.decoder=ctc"
    monkeypatch.setattr(sys, "argv", ["serve", *words.split()])
    with pytest.raises(InterruptedError):
        command.make_server(command.parse_arguments(), [], SimpleNamespace())
    assert [[str(path), *overrides] for path, overrides in loaded] == [
        ["m", "inference.decoder=ctc", "inference.dtype=float32"],
        ["s", "model.streaming.chunk_size=[0,8,4]", "inference.dtype=float32"],
    ]
    with pytest.raises(UserError, match="kind streaming, found one of the kind paraformer"):
        check_streaming(save_run(tmp_path), [])
    monkeypatch.setattr(sys, "argv", ["serve", "--model", "m", "streaming.chunk_size=[0,8,4]"])
    with pytest.raises(UserError, match="name it by --streaming"):
        command.make_server(command.parse_arguments(), [], SimpleNamespace())
