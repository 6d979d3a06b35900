"""A tiny model with random weights behind a real server on a free port, for the tests of the service."""

import contextlib
import copy
import dataclasses
import http.client
import io
import json
import logging
import threading
import time

import jax
import numpy as np
import soundfile

from asr.checkpoints import CheckpointStore
from asr.config import (
    Config,
    FeaturesConfig,
    InferenceConfig,
    LossConfig,
)
from asr.inference.transcriber import Transcriber
from asr.record.run_dir import create_run_dir
from asr.serve.app import make_app
from asr.serve.selftest import multipart
from asr.serve.server import Server, bind
from asr.serve.service import Service
from asr.serve.settings import ServeSettings
from tiny_model import CMVN, NUM_MELS, RATE_HZ, TOKENIZER, random_variables, tiny_model

CONFIG = Config(
    features=FeaturesConfig(num_mels=NUM_MELS, sample_rate_hz=RATE_HZ),
    model=tiny_model(ctc_head=True),
    loss=LossConfig(ctc_weight=0.3),
    inference=InferenceConfig(batch_size=2, max_segment_s=2, decoder="ctc"),
)
SETTINGS = ServeSettings(batch_rows=4, batch_lengths=1, decode_workers=1)
TRANSCRIPTIONS = "/v1/audio/transcriptions"


def make_transcriber():
    return Transcriber(CONFIG, TOKENIZER, CMVN, random_variables(CONFIG.model))


def make_service():
    return Service(make_transcriber(), SETTINGS, name="tiny", aliases=["whisper-1", "org/tiny"])


def burst(seconds, rate_hz=RATE_HZ, seed=0):
    """Tones of 0.1 s each, at random pitches."""
    tones_hz = np.random.default_rng(seed).uniform(150, 3500, 1000)
    time_n = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * tones_hz[(time_n * 10).astype(int)] * time_n)).astype(np.float32)


def sound_file(wave_n, rate_hz=RATE_HZ, kind="WAV"):
    file = io.BytesIO()
    soundfile.write(file, wave_n, rate_hz, format=kind)
    return file.getvalue()


def long_sound():
    """Three utterances with pauses: three segments."""
    pause = np.zeros(round(1.5 * RATE_HZ), np.float32)
    return sound_file(np.concatenate([burst(1.5, seed=1), pause, burst(0.8, seed=2), pause, burst(1.2, seed=3)]))


def make_server(service, *, keys=(), origins=(), hosts=(), limits=None, engine=None, **options):
    """Return another server for a service that is started already, with limits of its own."""
    other = copy.copy(service)
    other.settings = dataclasses.replace(service.settings, **(limits or {}))
    other.engine = engine or service.engine
    other.start = other.stop = other.drain = lambda: None
    return Server(other, make_app(other, keys, origins, hosts, **options), bind("127.0.0.1", 0))


@contextlib.contextmanager
def serving(service, **options):
    """Run a server as from `make_server`; yield it."""
    server = make_server(service, **options)
    thread = threading.Thread(target=server.serve_until_stopped, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server
    finally:
        server.drain()
        thread.join(timeout=20)
        assert not thread.is_alive(), "the server did not stop"


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        assert set(self.json) == {"error"} and set(self.json["error"]) == {"message", "type", "param", "code"}
        return self.json["error"]


def call(server, method="GET", path="/healthz", body=None, headers=None, **options):
    """Send one request on a connection of its own; return the answer."""
    host, port = server.listener.getsockname()[:2]
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
        connection.request(method, path, body, headers or {}, **options)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def post(server, fields, sound, headers=None):
    """Send a form as curl does."""
    body, kind = multipart(fields, sound)
    return call(server, "POST", TRANSCRIPTIONS, body, {"content-type": kind, **(headers or {})})


def repeated(parts, boundary="b"):
    """Return the body of a form with parts (name, value) in this order; the sound comes as bytes."""
    body = b""
    for name, value in parts:
        file = '; filename="a.wav"\r\nContent-Type: audio/x-wav' if isinstance(value, bytes) else ""
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def post_parts(server, parts, **headers):
    headers = {"content-type": "multipart/form-data; boundary=b", **headers}
    return call(server, "POST", TRANSCRIPTIONS, repeated(parts), headers)


@contextlib.contextmanager
def logged():
    """Yield the lines that the service logs."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("asr.serve")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def save_run(folder):
    """Write a run of the model with its weights; return its folder."""
    config = dataclasses.replace(CONFIG, runs_dir=str(folder / "runs"))
    run = create_run_dir(config, TOKENIZER, CMVN)
    CheckpointStore(run.checkpoints).save(1, jax.device_put(random_variables(CONFIG.model)), {}, score=(0.5,))
    return run.path
