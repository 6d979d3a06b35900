"""The service on Ray Serve: two replicas, one of which dies under load."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

import asr
from asr.serve.selftest import multipart
from serve.running_server import TRANSCRIPTIONS, burst, save_run, sound_file

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
SOUND = sound_file(burst(1, seed=7))
CLIENTS = 4

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own code warns of its dependencies


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def replicas():
    """Return the processes of the replicas."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"ray::ServeReplica" in path.read_bytes():
                pids.append(int(path.parent.name))
    return pids


@pytest.fixture
def port(tmp_path, monkeypatch):
    """Two replicas behind Ray's proxy on this port."""
    from ray import serve

    from asr.serve.ray_app import build

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    number = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": number})
    limits = {"batch_rows": 1, "batch_lengths": 1, "decode_workers": 1}
    application = build({"model": str(save_run(tmp_path)), "name": "tiny", "limits": limits})
    application._bound_deployment = application._bound_deployment.options(num_replicas=2, max_ongoing_requests=32)
    serve.run(application, route_prefix="/")
    yield number
    serve.shutdown()
    ray.shutdown()


def ask(port):
    """Return the status and the text of one request."""
    body, kind = multipart({"model": "tiny"}, SOUND)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", TRANSCRIPTIONS, body, {"content-type": kind})
        answer = connection.getresponse()
        content = answer.read()
    return answer.status, json.loads(content).get("text") if answer.status == 200 else content


def test_a_replica_dies_under_load_and_every_later_call_is_answered(port, tmp_path):
    expected = asr.load(next((tmp_path / "runs").iterdir())).transcribe(SOUND).text
    assert expected and ask(port) == (200, expected)
    victim, other = replicas()
    answers, stopping = [], threading.Event()

    def load():
        while not stopping.is_set():
            start = time.monotonic()
            try:
                answers.append((start, *ask(port)))
            except OSError as error:
                answers.append((start, 0, repr(error)))

    threads = [threading.Thread(target=load) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    time.sleep(8)
    stopping.set()
    for thread in threads:
        thread.join()
    later = [(status, text) for start, status, text in answers if start > killed]
    assert len(later) > 20
    assert set(later) == {(200, expected)}
    before = [(status, text) for start, status, text in answers if start <= killed]
    assert sum(answer != (200, expected) for answer in before) <= CLIENTS  # those that the replica took with it
    deadline = time.monotonic() + 60
    while len(replicas()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(replicas()) == 2 and victim not in replicas() and other in replicas()
