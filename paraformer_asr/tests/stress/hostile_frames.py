"""What hostile clients of FunASR's websocket protocol send: frames for `hostile_websockets.py`.

A text or bytes is a frame, a number a pause in seconds, None a connection that is broken off, and ("raw", bytes) goes
beneath the protocol.
"""

import io
import json
from collections.abc import Callable

import numpy as np
import soundfile

RATE_HZ = 8000
SETTINGS = {"mode": "offline", "chunk_size": [5, 10, 5], "chunk_interval": 10, "audio_fs": RATE_HZ, "wav_name": "demo"}
SETTINGS |= {"wav_format": "pcm", "is_speaking": True, "hotwords": "", "itn": True}
END = '{"is_speaking": false, "is_end": true}'
VALUES = (
    None,
    True,
    0,
    -1,
    1e308,
    10**400,
    "",
    "x" * 500,
    "\ud800",
    [],
    [[]],
    {},
    {"a": {"b": []}},
    "../../etc/passwd",
)


def state(**changes) -> str:
    """Return a frame of settings."""
    return json.dumps(SETTINGS | changes)


def pcm(seconds: float, seed: int = 0) -> bytes:
    """Return noise as samples."""
    wave = 3000 * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))
    return wave.astype("<i2").tobytes()


def sound_file(seconds: float, kind: str) -> bytes:
    """Return noise as a file."""
    file = io.BytesIO()
    soundfile.write(file, np.frombuffer(pcm(seconds), "<i2"), RATE_HZ, format=kind)
    return file.getvalue()


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a copy cut off somewhere, or with a few other bytes."""
    if rng.random() < 0.5:
        return content[: rng.integers(len(content))]
    changed = bytearray(content)
    for place in rng.integers(len(content), size=8):
        changed[place] = rng.integers(256)
    return bytes(changed)


def cut(content: bytes, rng: np.random.Generator) -> list[bytes]:
    """Return a sound in pieces of any length, also within a sample."""
    places = np.sort(rng.integers(len(content), size=12))
    return [part.tobytes() for part in np.split(np.frombuffer(content, np.uint8), places)]


def bad_json(rng):
    return [mutated(state().encode(), rng).decode("latin-1"), pcm(0.2), END]


def wrong_types(rng):
    return [state(**{rng.choice(list(SETTINGS)): VALUES[rng.integers(len(VALUES))]}), pcm(0.2), END]


def garbage(rng):
    pieces = [rng.bytes(rng.integers(1, 3000)) for _ in range(rng.integers(1, 6))]
    return [piece if rng.random() < 0.5 else piece.decode("latin-1") for piece in pieces]


def half_samples(rng):
    return [state(), *cut(pcm(1.5) + b"\1", rng), END]


def too_big(rng):
    frames = [state(hotwords="x " * 50_000)], [state(), bytes((1 << 20) + rng.integers(1, 9))]
    return [*frames[rng.integers(2)], END]


def too_long(rng):
    return [state(wav_format=str(rng.choice(["pcm", "mp3"]))), *[bytes(1 << 20)] * 30, END]


def wrong_order(rng):
    frames = [state(), pcm(0.3), END, state(audio_fs=16000), state(mode="2pass"), "{}", "[]"]
    return [frames[i] for i in rng.permutation(len(frames))]


def broken_files(rng):
    kind = str(rng.choice(["WAV", "FLAC", "OGG", "MP3"]))
    return [state(wav_format=kind), *cut(mutated(sound_file(1.0, kind), rng), rng), END]


def bombs(rng):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(RATE_HZ * 1800, np.int16), RATE_HZ, format="FLAC")
    return [state(wav_format="others"), file.getvalue(), END]


def floods(rng):
    return [END] * 40 + [state()] * 40 + [pcm(0.1), END]


def odd_names(rng):
    names = ["../../../etc/passwd", "a\0b", "\u202e", "<script>", "%s%n", "x" * 60_000, "\ud800"]
    return [state(wav_name=names[rng.integers(len(names))]), pcm(0.3), END]


def slow(rng):
    return [state(), *[1.0] * int(rng.integers(1, 3)), pcm(0.1), 3.0, END]


def aborted(rng):
    return [*[state(), pcm(1.0), END][: rng.integers(1, 4)], None]


def broken_frames(rng):
    heads = [
        b"\x83\x80\0\0\0\0",
        b"\xc1\x81\0\0\0\0a",
        b"\x82\x7f" + b"\xff" * 8,
        b"\x81\x83\0\0\0\0\xff\xfe\xfd",
        b"\x01\x7e",
    ]
    return [state(), ("raw", heads[rng.integers(len(heads))] + rng.bytes(20))]


KINDS: dict[str, Callable] = {
    "JSON cut off or changed": bad_json,
    "fields of other types": wrong_types,
    "random bytes and texts": garbage,
    "half samples": half_samples,
    "frames too big": too_big,
    "sounds too long": too_long,
    "frames out of order": wrong_order,
    "broken files": broken_files,
    "half an hour of silence in 0.2 MB": bombs,
    "floods of frames": floods,
    "names like paths": odd_names,
    "slow senders": slow,
    "clients that leave": aborted,
    "broken websocket frames": broken_frames,
}
