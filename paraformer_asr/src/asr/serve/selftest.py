"""Checks a service through its real port: starts it, transcribes a sound of its own, and stops it."""

import http.client
import io
import json
import threading
import time
import uuid

import numpy as np
import soundfile
from websockets.sync.client import connect

from asr.errors import UserError
from asr.serve.server import Server

SOUND_S, RATE_HZ = 2.0, 16_000
START_S, ANSWER_S = 1800.0, 120.0
"""Longest time to compile, and to answer, in seconds."""
SYLLABLES_PER_SECOND, VOICE_HZ, NUM_HARMONICS = 4.0, 120.0, 20


def run_selftest(server: Server, key: str = "") -> str:
    """Start the server, transcribe a sound, also live if it can, stop it; return a line that says what was seen.

    Args:
        server: that does not run yet.
        key: that it accepts; "" if it needs none.

    Raises:
        UserError: an answer was not as expected.
        Exception: why the service could not be started.
    """
    outcome: list[str | Exception] = []

    def check() -> None:
        try:
            outcome.append(_check(server, key))
        except Exception as error:
            outcome.append(error)
        server.drain()

    checking = threading.Thread(target=check, name="selftest", daemon=True)
    checking.start()
    server.serve_until_stopped()
    checking.join()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _check(server: Server, key: str) -> str:
    start = time.monotonic()
    _wait_until_ready(server)
    ready_s = time.monotonic() - start
    answer, seconds = _transcribe(server, key)
    live = _speak(server, key) if server.service.live else ""
    if late := server.service.engine.compilations_after_ready:
        raise UserError(f"selftest: {late} programs were compiled after the service was ready")
    text = f"{len(answer['text'])} characters"
    return (
        f"selftest passed: ready in {ready_s:.1f} s, {SOUND_S:g} s of sound answered in {seconds:.2f} s ({text}){live}"
    )


def make_sound(kind: str = "WAV") -> bytes:
    """Return a file of syllables: harmonics of a voice that swells and fades, over a little noise; RAW: int16 alone."""
    time_n = np.arange(round(SOUND_S * RATE_HZ)) / RATE_HZ
    rng = np.random.default_rng(0)
    voice_n = sum(np.sin(2 * np.pi * VOICE_HZ * k * time_n) / k for k in range(1, NUM_HARMONICS + 1))
    envelope_n = np.sin(np.pi * SYLLABLES_PER_SECOND * time_n) ** 2
    wave_n = 0.2 * voice_n * envelope_n + 0.001 * rng.standard_normal(len(time_n))
    file = io.BytesIO()
    soundfile.write(file, wave_n, RATE_HZ, "PCM_16", format=kind)
    return file.getvalue()


def multipart(fields: dict[str, str], file: bytes) -> tuple[bytes, str]:
    """Return the body of a form with a part `file`, and its content type."""
    boundary = uuid.uuid4().hex
    start = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    start += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="sound"\r\n\r\n'
    return start.encode() + file + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _wait_until_ready(server: Server) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and not server.error:
        if server.started and _call(server, "GET", "/readyz")[0] == 200:
            return
        time.sleep(0.1)
    raise server.error or UserError(f"selftest: not ready within {START_S:g} s")


def _transcribe(server: Server, key: str) -> tuple[dict, float]:
    body, kind = multipart({"response_format": "verbose_json"}, make_sound())
    start = time.monotonic()
    status, answer = _call(server, "POST", "/v1/audio/transcriptions", body, {"content-type": kind}, key)
    if status != 200:
        raise UserError(f"selftest: the sound got status {status}: {answer[:400]}")
    return json.loads(answer), time.monotonic() - start


def _speak(server: Server, key: str) -> str:
    """Hold a live conversation; return what was seen."""
    host, port = server.listener.getsockname()[:2]
    mode = "2pass" if server.service.live.has_second_pass else "online"
    headers, start = {"authorization": f"Bearer {key}"} if key else {}, time.monotonic()
    with connect(f"ws://{host}:{port}/", additional_headers=headers, open_timeout=ANSWER_S) as socket:
        socket.send(json.dumps({"mode": mode, "audio_fs": RATE_HZ, "wav_format": "pcm"}))
        socket.send(make_sound("RAW"))
        socket.send(json.dumps({"is_speaking": False, "is_end": True}))
        while not (frame := json.loads(socket.recv(ANSWER_S))).get("is_end"):
            if "error" in frame:
                raise UserError(f"selftest: the live stream got an error: {frame['error']}")
    return f", live in mode {mode} in {time.monotonic() - start:.2f} s"


def _call(server: Server, method: str, path: str, body: bytes = b"", headers=None, key: str = "") -> tuple[int, str]:
    host, port = server.listener.getsockname()[:2]
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    authorization = {"authorization": f"Bearer {key}"} if key else {}
    try:
        connection.request(method, path, body, {**(headers or {}), **authorization})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
