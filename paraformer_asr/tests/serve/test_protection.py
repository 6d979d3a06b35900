"""Limits, keys, origins, overload, and what a client sees of them."""

import asyncio
import concurrent.futures
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import openai
import pytest

from asr.cli import run_command
from asr.errors import EXIT_USER_ERROR, UserError
from asr.serve import __main__ as command
from asr.serve.engine import DeadlinePassed, Overloaded, RecognitionFailed
from asr.serve.selftest import run_selftest
from serve.running_server import (
    RATE_HZ,
    TRANSCRIPTIONS,
    burst,
    call,
    make_server,
    post,
    post_parts,
    repeated,
    save_run,
    serving,
    sound_file,
)

SHORT = sound_file(burst(1, seed=7))
KEY, OTHER_KEY = "a-key-of-enough-letters", "another-key-of-enough-letters"
FORM = {"content-type": "multipart/form-data; boundary=b"}


class OddEngine:
    """An engine with a few attributes replaced."""

    def __init__(self, engine, **attributes):
        self.__dict__.update(attributes, engine=engine)

    def __getattr__(self, name):
        return getattr(self.engine, name)


@contextlib.contextmanager
def talking(server):
    """Yield a bare connection."""
    with contextlib.closing(socket.create_connection(server.listener.getsockname()[:2], timeout=20)) as connection:
        yield connection


def read_all(connection):
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            answer += piece
    return answer


def ask(server, key="any", sound=SHORT, **options):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, **options) as client:
        return client.audio.transcriptions.create(file=("a.wav", sound), model="tiny")


# ── size and type of a body ──


def test_a_body_over_the_limit_is_refused_before_it_is_sent_and_while_it_arrives(service):
    with serving(service, limits={"max_body_bytes": 100_000}) as small:
        body = repeated([("file", SHORT + bytes(200_000))])
        answer = call(small, "POST", TRANSCRIPTIONS, body, FORM)
        assert answer.status == 413 and answer.error["code"] == "body_too_large"
        with talking(small) as connection:  # without a length
            connection.sendall(f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode())
            connection.sendall(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                for start in range(0, len(body), 4096):
                    piece = body[start : start + 4096]
                    connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            assert b" 413 " in read_all(connection).split(b"\r\n")[0]
        with pytest.raises(openai.APIStatusError, match="larger than 0.0953674 MiB") as error:
            ask(small, sound=bytes(5_000_000))
        assert error.value.status_code == 413
        assert post(small, {}, SHORT).status == 200


@pytest.mark.parametrize(
    ("sound", "status", "code"),
    [
        (b"not a sound at all, but a text", 415, "not_sound"),
        (b"%PDF-1.7 ...", 415, "not_sound"),
        (SHORT[:300], 422, "broken_sound"),
        (b"\x1aE\xdf\xa3" + bytes(50), 422, "broken_sound"),
    ],
)
def test_what_is_not_sound_differs_from_broken_sound(server, sound, status, code):
    answer = post(server, {}, sound)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, "file")
    assert "/" not in answer.error["message"].replace("MP4/M4A", "")


def test_sound_that_is_too_long_once_decoded_is_refused(server):
    answer = post(server, {}, sound_file(np.zeros(RATE_HZ * 601, np.float32), kind="FLAC"))
    assert (answer.status, answer.error["code"]) == (422, "sound_too_long")


# ── overload, failures, stopping ──


def test_overload_is_answered_at_once_and_the_client_tries_again(service):
    engine = OddEngine(service.engine)

    def check_room(sound_s):
        raise Overloaded(7.2)

    engine.check_room = check_room
    with serving(service, engine=engine) as full:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            answer = post(full, {}, SHORT)
            times.append(time.perf_counter() - start)
            assert (answer.status, answer.headers["retry-after"], answer.error["code"]) == (429, "8", "overloaded")
        assert min(times) < 0.05
        assert call(full).status == 200
        with talking(full) as connection:  # before its body is sent, which is then read and dropped
            head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n".encode()
            for _ in range(2):
                connection.sendall(head)
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 429 ")
                connection.sendall(bytes(300_000))
        with pytest.raises(openai.RateLimitError):
            ask(full, max_retries=0)
        del engine.check_room
        assert ask(full).text == service.transcriber.transcribe(SHORT).text


def test_the_client_retries_after_the_stated_time(service):
    engine, calls = OddEngine(service.engine), []

    def check_room(sound_s):
        calls.append(time.monotonic())
        if len(calls) == 1:
            raise Overloaded(1.0)

    engine.check_room = check_room
    with serving(service, engine=engine) as busy:
        assert ask(busy).text
    assert 1.0 <= calls[1] - calls[0] < 5


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RecognitionFailed("x"), 500, openai.InternalServerError),
        (RuntimeError("a secret"), 500, openai.InternalServerError),
        (DeadlinePassed("x"), 503, openai.InternalServerError),
    ],
)
def test_a_failure_is_not_tried_again(service, error, status, kind, caplog):
    calls = []

    class Engine(OddEngine):
        async def transcribe(self, decoded, **asked):
            calls.append(1)
            raise error

    with serving(service, engine=Engine(service.engine)) as failing:
        with pytest.raises(kind) as raised:
            ask(failing)
        assert (raised.value.status_code, len(calls)) == (status, 1)
        assert "secret" not in str(raised.value) + caplog.text
        assert call(failing).status == 200


@pytest.mark.parametrize(("state", "code"), [({"ready": False}, "starting"), ({"draining": True}, "stopping")])
def test_a_server_that_starts_or_stops_is_alive_but_not_ready(service, state, code):
    with serving(service, engine=OddEngine(service.engine, **state)) as server:
        assert call(server).status == 200
        for answer in (call(server, path="/readyz"), post(server, {}, SHORT)):
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, code, "5")


def test_what_has_begun_is_finished_while_the_server_stops(service):
    begun, finish = threading.Event(), threading.Event()

    class Engine(OddEngine):
        async def transcribe(self, decoded, **asked):
            begun.set()
            while not finish.is_set():
                await asyncio.sleep(0.01)
            return await self.engine.transcribe(decoded)

    engine = Engine(service.engine)
    with serving(service, engine=engine) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(post, server, {}, SHORT)
        assert begun.wait(20)
        server.service.drain = lambda: engine.__dict__.update(draining=True)
        server.drain()
        time.sleep(0.5)  # it still listens, so that probes and new clients get an answer
        assert call(server, path="/readyz").status == post(server, {}, SHORT).status == 503
        assert call(server).status == 200
        finish.set()
        assert answer.result().status == 200


# ── keys, origins, rates ──


def test_keys_guard_everything_but_probes_and_pages(service):
    with serving(service, keys=[KEY, OTHER_KEY]) as server:
        assert [call(server, path=path).status for path in ("/healthz", "/readyz", "/", "/metrics")] == [200] * 4
        assert [call(server, path=path).status for path in ("/v1/models", "/x")] == [401] * 2
        assert call(server, path="/v1/models", headers={"authorization": f"Bearer {OTHER_KEY}"}).status == 200
        assert post(server, {}, SHORT).headers["www-authenticate"] == "Bearer"
        for wrong in (f"bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer", "Bearer \xe4"):
            assert call(server, path="/v1/models", headers={"authorization": wrong}).status == 401
        assert call(server, path=f"/v1/models?api_key={KEY}").status == 401  # of websockets only
        with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer KEY"):
            ask(server)
        assert ask(server, KEY).text


def test_pages_of_other_servers_may_not_use_the_service(service):
    with serving(service, origins=["https://good.example"]) as server:
        statuses = {}
        for origin in (server.url, "https://good.example", "https://evil.example", "null", "http://["):
            answer = post(server, {}, SHORT, {"origin": origin})
            statuses[origin] = answer.status, answer.headers.get("access-control-allow-origin")
        assert list(statuses.values()) == [(200, None), (200, "https://good.example"), *[(403, None)] * 3]
        preflight = {"origin": "https://good.example", "access-control-request-method": "POST"}
        assert call(server, "OPTIONS", TRANSCRIPTIONS, headers=preflight).status == 200


def test_a_page_whose_name_was_made_to_resolve_here_is_refused(service):
    with serving(service, hosts=("localhost",)) as server:
        for path in ("/", "/v1/models", "/metrics"):
            answer = call(server, path=path, headers={"host": "evil.example:8000"})
            assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (
                421,
                "host_not_allowed",
                "false",
            )
            assert (
                call(server, path=path, headers={"host": "localhost:1"}).status == call(server, path=path).status == 200
            )
        assert post(server, {}, SHORT, {"host": "evil", "origin": "http://evil"}).status == 421
        assert call(server, path="/healthz", headers={"host": "probe"}).status == 200
        for host, status in (("evil", b"421"), ("localhost", b"101"), ("127.0.0.1", b"101")):
            with talking(server) as connection:
                lines = ["GET / HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
                lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "", ""]
                connection.sendall("\r\n".join(lines).encode())
                assert connection.recv(1 << 16).split(b" ")[1] == status


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, b"401"),
        ("", {"Authorization": f"Bearer {KEY}", "Origin": "https://evil.example"}, b"403"),
        ("", {"Authorization": "Bearer wrong"}, b"401"),
        ("?api_key=wrong", {}, b"401"),
        ("", {"Authorization": f"Bearer {KEY}"}, b"101"),
        ("", {"Sec-WebSocket-Protocol": f"binary, openai-insecure-api-key.{KEY}"}, b"101"),
        (f"?api_key={KEY}", {"Origin": "http://x"}, b"101"),
    ],
)
def test_a_websocket_needs_a_key_and_an_origin(service, query, headers, status):
    with serving(service, keys=[KEY]) as server, talking(server) as connection:
        lines = [f"GET /v1/stream{query} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert connection.recv(1 << 16).split(b" ")[1] == status


def test_requests_and_sound_are_counted_for_each_key(service):
    headers = {"authorization": f"Bearer {KEY}"}
    with serving(service, keys=[KEY, OTHER_KEY], limits={"max_requests_per_minute": 2}) as server:
        statuses = [post(server, {}, SHORT, headers).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert ask(server, OTHER_KEY).text
        assert call(server, path="/v1/models", headers=headers).status == 200
    with serving(service, limits={"max_sound_s_per_minute": 1.5}) as server:
        assert post(server, {}, SHORT).status == 200
        answer = post(server, {}, SHORT)
        assert answer.status == 429 and "1.5 seconds of sound in a minute" in answer.error["message"]
        assert 15 <= int(answer.headers["retry-after"]) <= 30


# ── slow and odd connections ──


def test_slow_senders_are_cut_off(service):
    limits = {"headers_timeout_s": 0.3, "idle_timeout_s": 0.3}
    with serving(service, limits=limits) as server:
        with talking(server) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n")
            assert b"408 Request Timeout" in read_all(connection)
        with talking(server) as connection:
            connection.sendall(f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n".encode())
            connection.sendall(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n")
            answer = read_all(connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 408 " in head and json.loads(body)["error"]["code"] == "too_slow"
    with (
        serving(service, limits={"body_timeout_s": 0.2, "min_body_bytes_per_s": 1e6}) as server,
        talking(server) as trickle,
    ):
        trickle.sendall(f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n".encode())
        trickle.sendall(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                trickle.sendall(b"x")
                time.sleep(0.01)
        assert call(server).status == 200


def test_clients_that_do_not_read_are_cut_off(service):
    with serving(service, limits={"idle_timeout_s": 0.3}) as server:
        size = len(call(server, path="/page/page.js").body)
        with contextlib.closing(socket.socket()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect(server.listener.getsockname()[:2])
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /page/page.js HTTP/1.1\r\nHost: x\r\n\r\n" * (6_000_000 // size))
            end = time.monotonic() + 20
            while server.server_state.connections and time.monotonic() < end:
                time.sleep(0.05)
            assert not server.server_state.connections


def test_connections_are_bounded(service):
    with serving(service, limits={"max_connections": 3}) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(talking(server))
        end = time.monotonic() + 20
        while len(server.server_state.connections) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        with talking(server) as fourth:
            assert b"503 Service Unavailable" in read_all(fourth)
    with serving(service, limits={"max_connections": 3}) as server:
        assert call(server).status == 200


def test_a_client_that_leaves_stops_its_work(service):
    begun, cancelled = threading.Event(), threading.Event()

    class Engine(OddEngine):
        async def transcribe(self, decoded, **asked):
            begun.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

    with serving(service, engine=Engine(service.engine)) as server:
        body = repeated([("file", SHORT)])
        with talking(server) as connection:
            connection.sendall(f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode())
            connection.sendall(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body)
            assert begun.wait(20)
        assert cancelled.wait(20)


def test_hostile_forms_are_refused_and_the_server_lives(server):
    many = [(f"field{i}", "x") for i in range(70)]
    assert post_parts(server, [*many, ("file", SHORT)]).status == 400
    assert post_parts(server, [("prompt", "x" * 70_000), ("file", SHORT)]).error["param"] == "prompt"
    for kind, body in {
        "": b"",
        "application/json": b"{}",
        "multipart/form-data": repeated([("file", SHORT)]),
        f"multipart/form-data; boundary={'x' * 300}": b"",
        "multipart/form-data; boundary=b; charset=idna": repeated([("model", "\xff"), ("file", SHORT)])[:-20],
        "multipart/form-data; boundary=b": b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        "multipart/form-data;boundary=b": b"--b\r\n" + b"X: y\r\n" * 100 + b"\r\nx\r\n--b--\r\n",
        "multipart/form-data; boundary=c": b"--b\r\n\r\n",
        "multipart/form-data ; boundary=b": b"--b\r\n" + b"X" * 20_000 + b": y\r\n\r\nx\r\n--b--\r\n",
    }.items():
        answer = call(server, "POST", TRANSCRIPTIONS, body, {"content-type": kind} if kind else {})
        assert answer.status == 400 and answer.error["code"] == "malformed_body", kind
    assert call(server).status == 200


# ── the command ──


def run_serve(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["serve", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(command.main)
    return end.value.code


def test_a_limit_may_be_zero_where_that_means_off():
    assert command.read_limits(["max_hotwords=0", "batch_wait_s=0"]) == {"max_hotwords": 0, "batch_wait_s": 0.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "other machines could use the service; name keys with --api-key-file FILE, or allow"),
        (["--api-key-file", "missing"], "--api-key-file missing: cannot be read (No such file or directory)"),
        (["--limit", "max_sound=1"], "--limit max_sound=1: no limit has this name; did you mean max_sound_s?"),
        (["--limit", "x"], "no limit has this name; choose one of max_body_bytes"),
        (["--limit", "max_parts=many"], "--limit max_parts=many: expected max_parts=N, N a whole number above 0"),
        (["--limit", "max_sound_s_per_minute=nan"], "expected max_sound_s_per_minute=N, N a number from 0 up"),
        (["--limit", "decode_workers=0"], "expected decode_workers=N, N a whole number above 0"),
        (["--limit", "max_hotwords=-1"], "expected max_hotwords=N, N a whole number from 0 up"),
        (["--host", "1.2.3.4", "--no-auth"], "--host 1.2.3.4 --port 8000: cannot listen there (Cannot assign"),
        (["--allowed-host", "http://x"], "--allowed-host http://x: expected a name without scheme and port, such as"),
        (["--port", "99999"], "--port 99999: expected 0 to 65535"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(command, "read_settings", lambda *_: None)
    assert run_serve(monkeypatch, "--model", "folder", *arguments) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_keys_are_read_from_a_file_and_the_environment(tmp_path):
    from asr.serve.keys import read_keys

    path = tmp_path / "keys"
    path.write_text(f"# of Anna\n{KEY}\n\n")
    assert read_keys(path, {"ASR_API_KEYS": f"{OTHER_KEY} {OTHER_KEY}x"}) == [OTHER_KEY, f"{OTHER_KEY}x", KEY]
    assert read_keys(None, {}) == []
    for text, message in {"": "holds no key", "short": "line 1: expected a key of at least 16 ASCII"}.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_keys(path, {})


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command, "EXTRA", ("fastapi", "no_such_module"))
    assert run_serve(monkeypatch, "--model", "folder") == EXIT_USER_ERROR
    assert 'needs more packages (no_such_module): pip install "paraformer-asr[serve]"' in capsys.readouterr().err


def test_the_selftest_goes_through_the_port(service):
    server = make_server(service, keys=[KEY])
    with server.listener:
        assert run_selftest(server, KEY).startswith("selftest passed: ready in ")
    server = make_server(service, keys=[KEY])
    with server.listener, pytest.raises(UserError, match="selftest: the sound got status 401"):
        run_selftest(server, OTHER_KEY)


def test_the_command_listens_at_once_answers_and_ends_after_sigterm(service, tmp_path):
    """The real command in a process of its own: it listens while it compiles, answers, and ends with 0."""
    arguments = [
        sys.executable,
        "-m",
        "asr",
        "serve",
        "--run",
        str(save_run(tmp_path)),
        "--port",
        "0",
        "--alias",
        "whisper-1",
    ]
    arguments += ["--limit", "decode_workers=1", "--limit", "batch_lengths=1", "--limit", "batch_rows=1"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        while not (lines and "ready: " in lines[-1]):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        assert "listening on http://127.0.0.1:" in "".join(lines)
        url = lines[-1].split("ready: ")[1].strip()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
            assert (
                client.audio.transcriptions.create(file=("a.wav", SHORT), model="whisper-1", timeout=60) if False else 1
            )
            assert isinstance(client.audio.transcriptions.create(file=("a.wav", SHORT), model="").text, str)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert "stopping; requests in progress: " in process.stderr.read()
    finally:
        process.kill()
        process.stderr.close()
        process.wait()
