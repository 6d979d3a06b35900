"""The service on Ray Serve: two replicas, one of which dies under load."""

import contextlib
import dataclasses
import http.client
import os
import signal
import socket
import threading
import time
from pathlib import Path

import jax
import pytest

from seg.checkpoints import CheckpointStore
from seg.record.run_dir import create_run_dir

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
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
def port(tmp_path, monkeypatch, predictor):
    """Two replicas behind Ray's proxy on this port."""
    from ray import serve

    from seg.serve.ray_app import build

    run = create_run_dir(dataclasses.replace(predictor.config, runs_dir=str(tmp_path)), predictor.classes)
    variables = jax.device_put(predictor.variables)
    CheckpointStore(run.path / "checkpoints").save(1, variables, {"step": 1}, best=True)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    number = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": number})
    application = build({"model": str(run.path), "name": "tiny", "limits": {"batch_sizes": (1,), "num_workers": 1}})
    application._bound_deployment = application._bound_deployment.options(num_replicas=2, max_ongoing_requests=32)
    serve.run(application, route_prefix="/")
    yield number
    serve.shutdown()
    ray.shutdown()


def ask(port, image):
    """Return the status and the body of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/segment", image, {"content-type": "image/png"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_a_replica_dies_under_load_and_every_later_call_is_answered(port, predictor, random_image, encode, tmp_path):
    image = encode(random_image(32, 24))
    predictor.predict(image).save(tmp_path / "mask.png")
    expected = (200, (tmp_path / "mask.png").read_bytes())
    assert ask(port, image) == expected
    victim, other = replicas()
    answers, stopping = [], threading.Event()

    def load():
        while not stopping.is_set():
            start = time.monotonic()
            try:
                answers.append((start, ask(port, image)))
            except OSError as error:
                answers.append((start, (0, repr(error))))

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
    later = [answer for start, answer in answers if start > killed]
    assert len(later) > 20
    assert all(answer == expected for answer in later)
    before = [answer for start, answer in answers if start <= killed]
    assert sum(answer != expected for answer in before) <= CLIENTS  # those that the replica took with it
    deadline = time.monotonic() + 60
    while len(replicas()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(replicas()) == 2 and victim not in replicas() and other in replicas()
