"""A tiny network with random weights, and a real server of it on a free port."""

import contextlib
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from seg.classes import make_class_table
from seg.config import Config, DataConfig, InferenceConfig, ModelConfig
from seg.inference.predictor import Predictor
from tiny_model import random_variables

CLASSES = make_class_table(("sky", "road", "tree"))


def tiny_config(fit="crop", **inference):
    return Config(
        model=ModelConfig(name="unet", num_classes=3, base_width=8, depth=2),
        data=DataConfig(size=(32, 24), fit=fit),
        inference=InferenceConfig(batch_size=3, **inference),
    )


@pytest.fixture(scope="session")
def make_predictor():
    variables = random_variables(tiny_config().model, (32, 24))
    return lambda **settings: Predictor(tiny_config(**settings), CLASSES, variables)


@pytest.fixture(scope="session")
def predictor(make_predictor):
    return make_predictor()


@pytest.fixture(scope="session")
def random_image():
    """Return a function (height, width, seed) → an image whose mask has several classes."""

    def draw(height, width, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)

    return draw


@pytest.fixture(scope="session")
def encode():
    """Return a function (image, format, **options) → the bytes of a file."""

    def save(image_hwc, kind="PNG", **options):
        file = io.BytesIO()
        Image.fromarray(image_hwc).save(file, kind, **options)
        return file.getvalue()

    return save


@pytest.fixture(scope="session")
def serving():
    """Return a context (predictor, settings, keys) → a client of a running server, its service as `client.service`."""
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    httpx = pytest.importorskip("httpx")
    from seg.serve.app import make_app
    from seg.serve.server import Server, address_of, bind
    from seg.serve.service import Service
    from seg.serve.settings import ServeSettings

    @contextlib.contextmanager
    def serve(predictor, settings=None, keys=(), hosts=(), wait=True, **options):
        service = Service(predictor, settings or ServeSettings(num_workers=1, batch_sizes=(1, 4)), ("tiny",))
        server = Server(make_app(service, keys, hosts, **options), service)
        with bind("127.0.0.1", 0) as listener:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                with httpx.Client(base_url=address_of(listener), timeout=60, trust_env=False) as client:
                    client.service, client.server, client.port = service, server, listener.getsockname()[1]
                    deadline = time.monotonic() + 120
                    while wait and client.get("/readyz").status_code != 200:
                        assert time.monotonic() < deadline and thread.is_alive()
                        time.sleep(0.05)
                    yield client
            finally:
                server.should_exit = True
                thread.join(60)
        server.check_startup()

    return serve


@pytest.fixture(scope="session")
def client(serving, predictor):
    with serving(predictor) as client:
        yield client
