"""FunASR's websocket protocol against a real server, by clients of both generations and by hostile ones."""

import asyncio
import contextlib
import copy
import dataclasses
import json
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from asr.inference.hotwords import Hotword
from asr.inference.words import Word
from asr.serve.engine import DeadlinePassed, Overloaded, RecognitionFailed
from asr.serve.funasr_frames import ConversationError, Request, pairs_ms, read_frame
from asr.serve.session import Session, SoundMemory, TooMuchSoundError
from asr.serve.settings import ServeSettings
from serve.running_server import RATE_HZ, burst, call, logged, long_sound, serving, sound_file

PATIENCE_S = 60
SETTINGS = {"mode": "offline", "chunk_size": [5, 10, 5], "chunk_interval": 10, "encoder_chunk_look_back": 4}
SETTINGS |= {"decoder_chunk_look_back": 0, "audio_fs": RATE_HZ, "wav_name": "demo", "wav_format": "pcm"}
SETTINGS |= {"is_speaking": True, "hotwords": "", "itn": True}
END = '{"is_speaking": false}'
WAVE = burst(3.3, seed=4)


def pcm(wave_n):
    return (wave_n * 32767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def text(service):
    text = service.transcriber.transcribe(sound_file(WAVE)).text
    assert text
    return text


def open_socket(server, path="", **options):
    host, port = server.listener.getsockname()[:2]
    return connect(f"ws://{host}:{port}{path}", max_size=None, open_timeout=PATIENCE_S, **options)


def state(**changes):
    return json.dumps(SETTINGS | changes, ensure_ascii=False)


def receive(socket):
    return json.loads(socket.recv(PATIENCE_S))


def close_of(socket):
    """Return code and reason with which the server closes."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(PATIENCE_S)
    return closed.value.rcvd.code, closed.value.rcvd.reason


def wait_until(is_so):
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def slices(content, size):
    return [content[start : start + size] for start in range(0, len(content), size)]


def python_client(socket, content, *, acknowledged, **changes):
    """What `funasr_wss_client.py` does in mode offline: since July 2026 it waits for the end's acknowledgement."""
    socket.send(state(**changes))
    for piece in slices(content, 960):
        socket.send(piece)
    socket.send(json.dumps({"is_speaking": False} | ({"is_end": True} if acknowledged else {})))
    texts = []
    while True:
        message = receive(socket)
        if message.get("is_end"):
            assert message["is_final"] is True and "text" not in message
            return texts
        assert message["mode"] == "offline"
        texts.append(message["text"])
        if not acknowledged:
            assert message["is_final"] is True
            return texts
        assert message["is_final"] is False  # it may close on the first message that is final


def html5_client(socket, content, kind):
    """What FunASR's page does with a file: 960 bytes a frame, the times parsed and counted, closes on is_final."""
    socket.send(json.dumps({"chunk_size": [5, 10, 5], "wav_name": "h5", "is_speaking": True, "chunk_interval": 10}
                           | {"itn": False, "mode": "offline", "wav_format": kind, "audio_fs": RATE_HZ}))  # fmt: skip
    for piece in slices(content, 960):
        socket.send(piece)
    end = {"chunk_size": [5, 10, 5], "wav_name": "h5", "is_speaking": False, "chunk_interval": 10, "mode": "offline"}
    socket.send(json.dumps(end))
    message = receive(socket)
    assert message["is_final"] is True and message["wav_name"] == "h5"
    return message["text"], lines_with_times(message["text"], message["timestamp"])


def lines_with_times(text, timestamp):
    """The page's own count, which throws where there are too few pairs."""
    pairs, place, lines = json.loads(timestamp), 0, []
    for word in re.sub("[。？，、?. ]", ",", text).split(","):
        if word:
            lines.append((pairs[place][0] / 1000, word))
            place += 1 if re.fullmatch("[a-zA-Z]+", word) else len(word)
    assert place == len(pairs)
    return lines


@pytest.mark.parametrize("acknowledged", [False, True])
def test_the_python_clients_of_both_generations_get_the_text(server, text, acknowledged):
    with open_socket(server, subprotocols=["binary"]) as socket:
        assert socket.subprotocol == "binary"
        for _ in range(2):  # a list of files goes over one connection
            assert python_client(socket, pcm(WAVE), acknowledged=acknowledged) == [text]
        socket.close()
        assert socket.close_code == 1000


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_the_html5_client_sends_the_bytes_of_a_file(server, service, kind):
    content = sound_file(WAVE, kind=kind.upper())
    with open_socket(server) as socket:
        text, lines = html5_client(socket, content, kind)
    transcript = service.transcriber.transcribe(content)
    assert text == transcript.text
    assert lines == [(pytest.approx(word.start_s, abs=6e-4), word.text) for word in transcript.words]


def test_other_ways_to_say_the_same(server, text):
    ways = [
        ("/v1/stream", state(chunk_size="5, 10, 5", wav_format="PCM", audio_fs=str(RATE_HZ)), END),
        ("/", state(mode=None, hotwords=None), '{"is_finished": true}'),
        ("", state(is_speaking=None), '{"is_speaking": false, "mode": "offline", "wav_name": "demo"}'),
    ]
    for path, start, end in ways:
        with open_socket(server, path) as socket:
            socket.send(start)
            socket.send(pcm(WAVE))
            socket.send(end)
            assert receive(socket)["text"] == text


def test_the_rate_is_16000_unless_stated_and_other_rates_are_resampled(server, service):
    wave = burst(2, 16000, seed=5)
    with open_socket(server) as socket:
        socket.send('{"mode": "offline"}')
        socket.send(pcm(wave))
        socket.send(END)
        message = receive(socket)
    assert message["text"] == service.transcriber.transcribe(sound_file(wave, 16000)).text != ""
    assert message["wav_name"] == "demo"


@pytest.mark.parametrize("size", [31, 961, 4097])
def test_frames_may_cut_samples_in_half(server, text, size):
    with open_socket(server) as socket:
        socket.send(state())
        for piece in slices(pcm(WAVE) + b"\x01", size):
            socket.send(piece)
        socket.send(END)
        assert receive(socket)["text"] == text


def test_hotwords_change_the_text_until_others_are_stated(server, service, text):
    word = f"{text.split()[0][:-1]}b"  # the first word with another last letter
    hot = service.transcriber.transcribe(sound_file(WAVE), hotwords=[f"{word} :5"]).text
    assert hot.split()[0] == word != text.split()[0]
    steps = [("", text), (json.dumps({word: 100}), hot), (None, hot), ("阿里巴巴 20", text), (["zz"], text)]
    with open_socket(server) as socket:
        for hotwords, expected in steps:
            socket.send(state(hotwords=hotwords))
            socket.send(pcm(WAVE))
            socket.send(END)
            message = receive(socket)
            assert message["text"] == expected and "ignored" not in message
            assert ("阿里巴巴" in message.get("warning", "")) == (hotwords == "阿里巴巴 20")


def test_silence_and_nothing_at_all_are_answered(server):
    with open_socket(server) as socket:
        for sound in ([], [b""], [b"\0"], [bytes(RATE_HZ)], [pcm(WAVE)[:20]]):
            socket.send(state())
            for piece in sound:
                socket.send(piece)
            socket.send(END)
            message = receive(socket)
            assert message["text"] == "" and message["is_final"] and message["timestamp"] == "[]"
            assert "error" not in message and message["warning"]
        socket.send(END)  # without a frame of settings before it
        assert receive(socket)["text"] == ""


def test_names_come_back_and_nothing_of_the_client_is_logged(server, text):
    with logged() as lines, open_socket(server) as socket:
        for name in ("../../etc/passwd\n", "演示", "\ud800half", "n" * 5000, ""):
            socket.send(json.dumps(SETTINGS | {"wav_name": name, "hotwords": "SECRETWORD"}))
            socket.send(pcm(WAVE))
            socket.send(END)
            assert receive(socket)["wav_name"] == name.replace("\ud800", "\ufffd")[:256]
        socket.send(json.dumps({"mode": "SECRETMODE"}))
        assert close_of(socket)[0] == 1003
    assert not re.search(f"passwd|演示|nnnnn|SECRET|{text.split()[0]}", " ".join(lines))


HOSTILE = {
    "no JSON": (["{"], 1007),
    "commands of the other server": (["START"], 1007),
    "a number of many digits": (["1" * 5000], 1007),
    "brackets without end": (["[" * 60_000], 1007),
    "a list": (["[1, 2]"], 1003),
    "null": (["null"], 1003),
    "too deep": (['{"a": ' + "[" * 20 + "]" * 20 + "}"], 1003),
    "a long text": ([json.dumps({"hotwords": "x " * 40_000})], 1009),
    "sound first": ([b"\0\0"], 1003),
    "mode online": ([state(mode="online")], 1003),
    "mode 2pass": ([state(mode="2pass")], 1003),
    "unknown mode": ([state(mode="x" * 3000)], 1003),
    "mode a number": ([state(mode=5)], 1003),
    "name a list": ([state(wav_name=["a"])], 1003),
    "format a number": ([state(wav_format=1)], 1003),
    "speaking a text": ([state(is_speaking="no")], 1003),
    "end a number": ([state(is_end=1)], 1003),
    "rate a text": ([state(audio_fs="fast")], 1003),
    "rate zero": ([state(audio_fs=0)], 1003),
    "rate true": ([state(audio_fs=True)], 1003),
    "rate too high": ([state(audio_fs=10**9)], 1003),
    "too many hotwords": ([state(hotwords=" ".join(f"w{i}" for i in range(101)))], 1003),
    "a long hotword": ([state(hotwords="x" * 65)], 1003),
    "hotwords a number": ([state(hotwords=7)], 1003),
    "hotwords of numbers": ([state(hotwords=[1, 2])], 1003),
    "another rate within a sound": ([state(), b"\0\0", state(audio_fs=16000)], 1003),
    "another mode within a sound": ([state(), b"\0\0", state(mode="2pass")], 1003),
    "a large frame": ([state(), bytes(1 << 20)] + [bytes((1 << 20) + 1)], 1009),
    "a long sound": ([state(), *[bytes(1 << 20)] * 10], 1009),
    "a file that is no sound": ([state(wav_format="mp3"), b"hello" * 100, END], 1003),
    "a file of nothing": ([state(wav_format="wav"), END], 1003),
    "a broken file": ([state(wav_format="wav"), sound_file(WAVE)[:44], END], 1003),
    "a playlist": ([state(wav_format="others"), b"#EXTM3U\nhttp://127.0.0.1/a.wav\n", END], 1003),
    "a large file": ([state(wav_format="wav"), *[bytes(1 << 20)] * 26], 1009),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_conversation_ends_with_an_error_and_its_code(server, name):
    frames, code = HOSTILE[name]
    with open_socket(server) as socket:
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                socket.send(frame)
            message = receive(socket)
            assert message["text"] == "" and message["is_final"] and message["error"]
        found, reason = close_of(socket)
        assert found == code and len(reason.encode()) <= 123
        assert call(server).status == 200


@pytest.mark.parametrize("mode", ["online", "2pass"])
def test_without_a_streaming_model_the_answer_names_the_option(server, mode):
    with open_socket(server) as socket:
        socket.send(state(mode=mode))
        assert re.match(f"mode {mode}: .* without --streaming FOLDER; use mode offline", receive(socket)["error"])


def test_afterwards_the_server_is_as_before(server, service, text):
    with open_socket(server) as socket:
        assert python_client(socket, pcm(WAVE), acknowledged=True) == [text]
    wait_until(lambda: service.metrics.registry.get_sample_value("asr_sessions") == 0)
    assert service.engine.compilations_after_ready == 0 and service.engine.num_requests == 0


def engine_with(service, **functions):
    """Return the engine with other functions."""
    engine = copy.copy(service.engine)
    vars(engine).update(functions)
    return engine


def raising(error):
    async def transcribe(decoded, **_):
        raise error

    return transcribe


FAILURES = [(Overloaded(3.0), 1013), (DeadlinePassed("late"), 1013), (RecognitionFailed("bad"), 1011)]
FAILURES += [(ValueError("a secret"), 1011)]


@pytest.mark.parametrize(("error", "code"), FAILURES)
def test_clients_that_wait_for_the_end_learn_that_it_failed(service, error, code):
    with (
        serving(service, engine=engine_with(service, transcribe=raising(error))) as server,
        logged() as lines,
        open_socket(server) as socket,
    ):
        socket.send(state())
        socket.send(pcm(WAVE))
        socket.send('{"is_speaking": false, "is_end": true}')
        first, second = receive(socket), receive(socket)
        assert first["error"] == second["error"] and first["text"] == "" and "secret" not in first["error"]
        assert second["is_end"] is True and second["is_final"] is False  # so that its newest client raises
        assert close_of(socket)[0] == code
    assert "secret" not in " ".join(lines)


def test_a_full_server_refuses_a_sound_before_it_is_sent(service):
    def refuse(sound_s):
        raise Overloaded(3.0)

    engine = engine_with(service, check_room=refuse)
    with serving(service, engine=engine) as server, open_socket(server) as socket:
        socket.send(state())
        assert "busy" in receive(socket)["error"] and close_of(socket)[0] == 1013


def test_limits_of_time_and_memory(service, monkeypatch):
    taken, take = [], SoundMemory.take
    monkeypatch.setattr(SoundMemory, "take", lambda memory, size: (take(memory, size), taken.append(size)))
    limits = {"websocket_idle_s": 0.2, "websocket_after_text_s": 0.1}
    with serving(service, limits=limits) as server:
        with open_socket(server) as socket:
            assert close_of(socket)[0] == 1008  # nothing was ever sent
        with open_socket(server) as socket:
            socket.send(state())
            assert "0.2 s" in receive(socket)["error"] and close_of(socket)[0] == 1008
        with open_socket(server) as socket:
            socket.send(END)
            assert receive(socket)["text"] == ""
            assert close_of(socket) == (1000, "")  # the client left closing to the server
    with serving(service, limits={"websocket_session_s": 0.3}) as server, open_socket(server) as socket:
        socket.send(state())
        assert "too long" in receive(socket)["error"] and close_of(socket)[0] == 1008
    with serving(service, limits={"websocket_sounds_bytes": 50_000}) as server:
        with open_socket(server) as first, open_socket(server) as second:
            first.send(state())
            first.send(bytes(40_000))
            wait_until(lambda: 40_000 in taken)
            second.send(state())
            second.send(bytes(40_000))
            assert "memory" in receive(second)["error"] and close_of(second)[0] == 1013
        with open_socket(server) as third:  # the memory of both came back
            for _ in range(2):
                third.send(state())
                third.send(bytes(40_000))
                third.send(END)
                assert "error" not in receive(third)


def test_work_of_a_client_that_leaves_is_dropped(service):
    begun, cancelled = [], []

    async def transcribe(decoded, **_):
        begun.append(True)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with serving(service, engine=engine_with(service, transcribe=transcribe)) as server:
        with open_socket(server) as socket:
            socket.send(state())
            socket.send(pcm(WAVE))
            socket.send(END)
            wait_until(lambda: begun)
        wait_until(lambda: cancelled)


def test_a_text_for_a_connection_that_was_closed_meanwhile_is_dropped(service):
    begun, closed, texts = [], [], []

    async def transcribe(decoded, **_):
        begun.append(True)
        while not closed:
            await asyncio.sleep(0.01)
        texts.append(await service.engine.transcribe(decoded))
        return texts[-1]

    with serving(service, engine=engine_with(service, transcribe=transcribe)) as server, logged() as lines:
        with open_socket(server) as socket:
            for frame in (state(), pcm(WAVE), END):
                socket.send(frame)
            wait_until(lambda: begun)
            socket.send(state())  # read ahead: from here on the server does not look whether the client is there
            assert socket.ping().wait(PATIENCE_S)
            socket.send(bytes((1 << 20) + 1))
            assert close_of(socket)[0] == 1009
        closed.append(True)
        wait_until(lambda: texts)
        wait_until(lambda: service.metrics.registry.get_sample_value("asr_sessions") == 0)
    assert not any("failed" in line for line in lines)


def test_a_conversation_without_a_sound_ends_when_the_server_stops(service):
    with serving(service, engine=engine_with(service)) as server, open_socket(server) as socket:
        socket.send(state())
        socket.send(END)
        assert receive(socket)["is_final"]
        server.service.engine.draining = True
        assert "about to stop" in receive(socket)["error"] and close_of(socket)[0] == 1013


def test_seconds_of_sound_are_counted_for_each_key(service):
    with serving(service, limits={"max_sound_s_per_minute": 5.0}) as server, open_socket(server) as socket:
        socket.send(state())
        socket.send(pcm(WAVE))
        socket.send(END)
        assert receive(socket)["text"]
        socket.send(state())
        socket.send(pcm(WAVE))
        socket.send(END)
        assert re.match("[a-z].*seconds of sound", receive(socket)["error"]) and close_of(socket)[0] == 1013


def test_a_sound_that_follows_at_once_waits_for_its_turn(server, text):
    with open_socket(server) as socket:
        for _ in range(3):
            socket.send(state())
            socket.send(pcm(WAVE))
            socket.send(END)
        assert [receive(socket)["text"] for _ in range(3)] == [text] * 3


def test_keys_and_origins_are_checked_at_the_handshake(service):
    key = "a-key-of-enough-characters"
    with serving(service, keys=[key], origins=["https://known.example"]) as server:
        for options, path in [
            ({"additional_headers": {"Authorization": f"Bearer {key}"}}, ""),
            ({}, f"/?api_key={key}"),
            ({"subprotocols": ["binary", f"openai-insecure-api-key.{key}"], "origin": "https://known.example"}, ""),
        ]:
            with open_socket(server, path, **options) as socket:
                socket.send(END)
                assert receive(socket)["text"] == ""
        for options, path, status in [
            ({}, "", 401),
            ({}, "/?api_key=wrong", 401),
            ({"origin": "https://evil.example"}, f"/?api_key={key}", 403),
        ]:
            with pytest.raises(InvalidStatus) as refused, open_socket(server, path, **options):
                pass
            assert refused.value.response.status_code == status


def word(text, start_s, end_s, space=True):
    return Word(text, start_s, end_s, 1.0, (), space)


PAIRS = [
    ([word("hello", 0.1, 0.5), word("world", 0.5, 1.0)], [[100, 500], [500, 1000]]),
    ([word("正", 0.43, 0.67), word("是", 0.67, 0.81, False)], [[430, 670], [670, 810]]),
    ([word("it's", 0, 0.4)], [[0, 100], [100, 200], [200, 300], [300, 400]]),
    ([word("我", 0, 0.2), word("ok", 0.2, 0.4, False)], [[0, 200], [200, 300], [300, 400]]),
    ([word("yes,", 0, 0.4), word("no", 0.4, 0.6)], [[0, 300], [400, 600]]),
    ([word("...", 0, 0.3)], []),
    ([], []),
]


@pytest.mark.parametrize(("words", "pairs"), PAIRS)
def test_pairs_are_counted_as_the_html5_client_counts(words, pairs):
    assert pairs_ms(words) == pairs
    text = "".join(" " * w.space_before + w.text for w in words)
    lines_with_times(text, json.dumps(pairs))


def test_a_frame_changes_only_what_it_states():
    first = read_frame(state(wav_name="a", wav_format="mp3", hotwords="x"), Request(), ServeSettings())
    assert (first.wav_name, first.is_file, first.rate_hz, first.hotwords) == ("a", True, RATE_HZ, (Hotword("x"),))
    second = read_frame('{"is_speaking": false, "is_end": true}', first, ServeSettings())
    assert second == dataclasses.replace(first, is_speaking=False, wants_end=True)
    third = read_frame('{"wav_name": "b"}', second, ServeSettings())
    assert third == dataclasses.replace(first, wav_name="b")
    with pytest.raises(ConversationError):
        read_frame('{"audio_fs": 16000.5}', first, ServeSettings())


def test_a_session_counts_its_memory():
    memory = SoundMemory(100)
    service = SimpleNamespace(settings=ServeSettings(max_sound_s=0.001, max_body_bytes=60))

    def push(session, content):
        return asyncio.run(session.push(content))

    session = Session(service, memory, rate_hz=16000)
    assert push(session, bytes(31)) == [] and session.has_sound and memory.num_bytes == 31
    with pytest.raises(TooMuchSoundError, match="lasts at most"):
        push(session, b"\0\0")
    file = Session(service, memory, rate_hz=None)
    push(file, bytes(60))
    with pytest.raises(TooMuchSoundError, match="60 bytes"):
        push(file, b"\0")
    with pytest.raises(TooMuchSoundError, match="again later") as full:
        push(Session(service, memory, rate_hz=None), bytes(10))
    assert full.value.is_full
    session.close(), session.close(), file.close()
    assert memory.num_bytes == 0


def test_a_long_sound_is_the_same_in_pieces(server, service):
    content = long_sound()
    with open_socket(server) as socket:
        text, _ = html5_client(socket, content, "wav")
    assert text == service.transcriber.transcribe(content).text and len(text.split()) > 1


def test_random_bytes_never_end_a_conversation_without_a_code(server):
    rng = np.random.default_rng(0)
    for _ in range(30):
        with open_socket(server) as socket:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(4):
                    content = rng.bytes(rng.integers(1, 200))
                    socket.send(content if rng.random() < 0.5 else content.decode("latin-1"))
            assert close_of(socket)[0] in (1003, 1007)
