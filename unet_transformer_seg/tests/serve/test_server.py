"""The real server on a free port: routes, formats, errors, limits, keys, clients that go away."""

import contextlib
import io
import json
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from seg.serve.refusal import overloaded
from seg.serve.settings import ServeSettings

SETTINGS = ServeSettings(
    num_workers=1,
    batch_sizes=(1, 4),
    max_body_bytes=100_000,
    max_bytes_in_flight=150_000,
    max_image_megapixels=0.05,
    idle_timeout_s=0.5,
    headers_timeout_s=0.5,
    max_requests_per_minute=0,
)


@pytest.fixture(scope="module")
def strict(serving, predictor):
    """A server with small limits and two keys."""
    with serving(
        predictor, SETTINGS, keys=("first-key", "second-key"), hosts=("x",), metrics=False, docs=False
    ) as client:
        client.headers["authorization"] = "Bearer first-key"
        yield client


def error_of(answer):
    """Return the error of an answer, which has the form that clients of the OpenAI API read."""
    assert answer.headers["content-type"] == "application/json", answer.text
    (error,) = answer.json().values()
    assert list(error) == ["message", "type", "param", "code"]
    return error


def labels_of(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


@pytest.mark.parametrize("size", [(32, 24), (9, 13), (70, 50)])
def test_a_mask_is_the_file_of_infer_whichever_way_the_image_comes(
    client, predictor, encode, random_image, size, tmp_path
):
    content = encode(random_image(*size))
    predictor.predict(content).save(tmp_path / "mask.png")
    for answer in (
        client.post("/v1/segment", files={"file": ("../../etc/passwd", content, "text/html")}),
        client.post("/v1/segment", files={"file": content}, data={"format": "png"}),
        client.post("/v1/segment", content=content),
        client.post("/v1/segment", content=iter([content[:50], content[50:]])),  # chunked
    ):
        assert answer.status_code == 200, answer.text
        assert answer.content == (tmp_path / "mask.png").read_bytes()
    height, width = size
    assert answer.headers["x-image-size"] == f"{width}x{height}"
    labels_hw = labels_of(answer)
    pixels = {int(label): number for label, number in json.loads(answer.headers["x-class-pixels"]).items()}
    assert pixels == dict(zip(*(values.tolist() for values in np.unique(labels_hw, return_counts=True)), strict=True))


def test_every_format_shows_the_same_mask(client, predictor, encode, random_image):
    image_hwc = random_image(40, 30)
    content, labels_hw = encode(image_hwc), predictor.predict(image_hwc).labels
    overlay = client.post("/v1/segment?format=overlay&opacity=1", content=content)
    np.testing.assert_array_equal(labels_of(overlay), np.array(predictor.classes.palette, np.uint8)[labels_hw])
    coco = client.post("/v1/segment", files={"file": content}, data={"format": "coco"}).json()
    assert {one["category_id"]: one["area"] for one in coco["annotations"]} == {
        label: number for label, number in enumerate(np.bincount(labels_hw.ravel())) if number
    }
    geojson = client.post("/v1/segment", files={"file": content}, params={"format": "geojson"})
    assert geojson.headers["content-type"] == "application/geo+json"
    assert sum(feature["properties"]["pixels"] for feature in geojson.json()["features"]) == labels_hw.size
    arrays = client.post("/v1/segment?format=npz&probabilities=true", content=content)
    with np.load(io.BytesIO(arrays.content)) as npz:
        np.testing.assert_array_equal(npz["labels"], labels_hw)
        assert npz["probabilities"].shape == (40, 30, 3)
    assert client.service.engine.compilations_after_ready == 0


def test_the_lists(client, predictor):
    classes = client.get("/v1/classes").json()
    assert [one["name"] for one in classes["data"]] == list(predictor.classes.names)
    assert classes["data"][1]["colour"] == "#" + bytes(predictor.classes.palette[1]).hex()
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and client.get("/v1/models/tiny").json() == model
    assert error_of(client.get("/v1/models/a/b"))["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"format": "gif"}, "format", "expected one of png, overlay, geojson, coco, npz, tiff, found 'gif'"),
        ({"format": "overlay", "opacity": "2"}, "opacity", "expected a number from 0 to 1, found '2'"),
        ({"opacity": "nan"}, "opacity", "found 'nan'"),
        ({"probabilities": "maybe"}, "probabilities", "expected true or false"),
        ({"probabilities": "true"}, "probabilities", "only format=npz"),
        ({"fromat": "coco"}, "fromat", "unknown field 'fromat'; expected file, format"),
    ],
)
def test_a_wrong_option_is_named(client, encode, random_image, fields, param, message):
    content = encode(random_image(5, 5))
    for answer in (
        client.post("/v1/segment", files={"file": content}, data=fields),
        client.post("/v1/segment", params=fields, content=content),
    ):
        error = error_of(answer)
        assert answer.status_code == 400 and error["param"] == param and message in error["message"]
        assert error["type"] == "invalid_request_error" and answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("request_of", "status", "code"),
    [
        (lambda content: {"files": {"format": (None, "png")}}, 400, "no_file"),
        (lambda content: {"files": {"image": content}}, 400, "no_file"),
        (lambda content: {"files": {"file": b""}}, 400, "no_file"),
        (lambda content: {"content": b""}, 400, "no_file"),
        (lambda content: {"files": [("file", content), ("file", content)]}, 400, "bad_form"),
        (lambda content: {"files": {"file": content}, "data": {str(i): "x" for i in range(50)}}, 400, "bad_form"),
        (lambda content: {"files": {"file": content}, "data": {"format": "x" * 9999}}, 400, "bad_form"),
        (lambda content: {"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad_form"),
        (lambda content: {"files": {"file": content}, "data": {"model": "whisper-1"}}, 404, "model_not_found"),
        (lambda content: {"content": b"hello"}, 415, "not_an_image"),
        (lambda content: {"content": content[:100]}, 422, "image_broken"),
    ],
)
def test_a_wrong_request_gets_its_status(client, encode, random_image, request_of, status, code):
    answer = client.post("/v1/segment", **request_of(encode(random_image(20, 20))))
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert len(answer.headers["x-request-id"]) == 32


def test_other_paths_and_methods(client):
    assert error_of(client.get("/v1/nothing"))["code"] == "not_found"
    answer = client.get("/v1/segment")
    assert answer.status_code == 405 and error_of(answer)["code"] == "method_not_allowed"


def test_health_metrics_and_pages(client):
    for path in ("/healthz", "/health", "/ping", "/readyz"):
        assert client.get(path).status_code == 200
    lines = client.get("/metrics").text.splitlines()
    assert "seg_compilations_after_ready 0.0" in lines and "seg_queued_megapixels 0.0" in lines
    assert any(line.startswith('seg_requests_total{route="/healthz",status="200"}') for line in lines)
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "http" not in policy
    assert "src=" not in page.text and page.headers["x-content-type-options"] == "nosniff"
    docs = client.get("/docs").text
    assert "/v1/segment" in docs and "<script" not in docs
    assert "/v1/segment" in client.get("/openapi.json").json()["paths"]


def test_a_field_without_meaning_is_named_in_a_header(client, encode, random_image):
    answer = client.post("/v1/segment?opacity=0.3", content=encode(random_image(5, 5)))
    assert answer.status_code == 200 and answer.headers["x-ignored"] == "opacity"


# Protection.


def test_a_key_is_needed_and_each_is_accepted(strict, encode, random_image):
    content = encode(random_image(5, 5))
    for headers in ({"authorization": ""}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer first-key2"}):
        answer = strict.post("/v1/segment", content=content, headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert error_of(answer)["type"] == "authentication_error"
    for headers in ({}, {"authorization": "Bearer second-key"}, {"authorization": "", "x-api-key": "second-key"}):
        assert strict.post("/v1/segment", content=content, headers=headers).status_code == 200
    assert strict.get("/healthz", headers={"authorization": ""}).status_code == 200


def test_routes_can_be_left_out(strict):
    assert [strict.get(path).status_code for path in ("/metrics", "/docs", "/openapi.json")] == [404] * 3


def test_a_page_of_another_site_is_refused(strict, encode, random_image):
    content, own = encode(random_image(5, 5)), f"http://127.0.0.1:{strict.port}"
    answer = strict.post("/v1/segment", content=content, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert strict.post("/v1/segment", content=content, headers={"origin": own}).status_code == 200


def test_a_page_whose_name_was_made_to_resolve_here_is_refused(strict):
    for path in ("/", "/v1/models", "/v1/segment"):
        answer = strict.get(path, headers={"host": "evil.example:8000", "origin": "http://evil.example:8000"})
        assert answer.status_code == 421 and error_of(answer)["code"] == "host_not_allowed"
    assert strict.get("/", headers={"host": "x:8000"}).status_code == strict.get("/").status_code == 200
    assert strict.get("/healthz", headers={"host": "probe"}).status_code == 200


def test_overload_is_answered_before_the_body_arrives(strict, monkeypatch):
    def check_room():
        raise overloaded(7)

    monkeypatch.setattr(strict.service, "check_room", check_room)
    with connected(strict) as connection:
        for _ in range(2):  # the body is read and dropped, and the connection is used again
            connection.sendall(HEAD)
            assert connection.recv(1000).startswith(b"HTTP/1.1 429 ")
            connection.sendall(bytes(5000))
    with connected(strict, HEAD.replace(b"5000", b"9000000")) as connection:
        assert b"connection: close" in connection.recv(1000)


def test_a_body_is_counted_as_it_arrives(strict):
    for content in (bytes(2_000_000), iter([bytes(10_000)] * 20)):  # stated, and chunked
        answer = strict.post("/v1/segment", content=content)
        assert answer.status_code == 413 and answer.headers["connection"] == "close"
        assert "larger than" in error_of(answer)["message"]


def test_an_image_of_too_many_pixels_is_refused(strict, encode):
    answer = strict.post("/v1/segment", content=encode(np.zeros((500, 500, 3), np.uint8)))
    assert answer.status_code == 422 and error_of(answer)["code"] == "image_too_large"


@contextlib.contextmanager
def connected(client, *parts):
    """A bare connection on which these bytes were sent."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        yield connection


HEAD = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer first-key\r\nContent-Length: 5000\r\n\r\n"


def wait_until(is_so):
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_bodies_in_flight_are_bounded_together(strict):
    big = HEAD.replace(b"5000", b"90000")
    with connected(strict, big, bytes(80_000)):
        wait_until(lambda: strict.service.metrics.bytes_in_flight._value.get() >= 80_000)
        answer = strict.post("/v1/segment", content=bytes(90_000))
        assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 30
    wait_until(lambda: not strict.service.metrics.bytes_in_flight._value.get())
    assert strict.post("/v1/segment", content=bytes(90_000)).status_code == 415  # there is room again


def test_a_refused_body_that_does_not_end_is_let_go(strict):
    head = HEAD.replace(b"first-key", b"wrong-key")
    with connected(strict, head) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < start + 5:
                connection.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() < start + 5


def test_slow_senders_are_let_go(strict):
    with connected(strict, HEAD, b"abc") as connection:
        assert b" 408 " in connection.recv(1000)
    with connected(strict, HEAD[:30]) as connection:
        assert connection.recv(1000) == b""
    with connected(strict) as connection:
        assert connection.recv(1000) == b""


def test_rubbish_and_websockets_are_refused(strict):
    with connected(strict, b"\x16\x03\x01\x02\x00rubbish\r\n\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    with connected(strict, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 4")
    assert strict.get("/healthz").status_code == 200


def test_who_goes_away_is_dropped_and_the_server_lives(strict, encode, random_image):
    content = encode(random_image(200, 200))
    head = HEAD.replace(b"5000", b"%d" % len(content))
    for parts in ((head[:40],), (head,), (head, content[:1000]), (head, content)):
        with connected(strict, *parts):
            pass
    wait_until(lambda: strict.service.engine._queued_megapixels <= 1e-9)
    assert strict.post("/v1/segment", content=encode(random_image(5, 5))).status_code == 200
    assert strict.service.metrics.bytes_in_flight._value.get() == 0


def test_requests_of_a_client_are_limited(serving, predictor, encode, random_image):
    settings = ServeSettings(num_workers=1, batch_sizes=(1,), max_requests_per_minute=3, max_megapixels_per_minute=1)
    with serving(predictor, settings) as client:
        content = encode(random_image(5, 5))
        statuses = [client.post("/v1/segment", content=content).status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert client.get("/healthz").status_code == 200


def test_a_server_starts_drains_and_stops(serving, make_predictor, encode, random_image):
    predictor, gate = make_predictor(), threading.Event()
    forward = predictor.windows_forward
    predictor.windows_forward = lambda windows: gate.wait(60) and forward(windows)
    content = encode(random_image(5, 5))
    with serving(predictor, wait=False) as client:
        while True:  # the socket listens before the server runs
            with contextlib.suppress(Exception):
                assert client.get("/healthz", timeout=1).status_code == 200
                break
        for answer in (client.get("/readyz"), client.post("/v1/segment", content=content)):
            assert answer.status_code == 503 and error_of(answer)["code"] == "starting"
        gate.set()
        while client.get("/readyz").status_code != 200:
            time.sleep(0.05)
        gate.clear()
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(client.post("/v1/segment", content=content)))
        waiting.start()
        while not client.service.engine._queued_megapixels:
            time.sleep(0.01)
        client.server.handle_exit(15, None)
        assert error_of(client.get("/readyz"))["code"] == "draining"
        assert error_of(client.post("/v1/segment", content=content))["code"] == "draining"
        gate.set()
        waiting.join(20)
        assert answers[0].status_code == 200


def test_a_bug_is_a_500_without_a_trace(serving, predictor, encode, random_image, monkeypatch):
    with serving(predictor) as client:

        async def fail(*_):
            raise KeyError("secret")

        monkeypatch.setattr(client.service, "_answer", fail)
        answer = client.post("/v1/segment", content=encode(random_image(5, 5)))
        assert answer.status_code == 500 and answer.headers["x-should-retry"] == "false"
        assert "secret" not in answer.text and error_of(answer)["type"] == "server_error"
