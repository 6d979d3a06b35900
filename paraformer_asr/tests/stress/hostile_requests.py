"""Hostile requests to the route for uploads, and the answers that are right for each kind."""

import contextlib
import dataclasses
import io
import random
import re
import socket
import time
import zlib
from collections.abc import Callable

import numpy as np
import soundfile

from asr.serve.options import FIELDS
from serve.running_server import burst, sound_file

ROUTE = "/v1/audio/transcriptions"
MAX_BODY_BYTES, IDLE_S, MAX_SOUND_S = 1_000_000, 1.0, 60.0
"""Limits of the server under attack: small ones are met sooner."""
ANSWER_S = 20.0
CLOSED = "closed"
"""How the table shows a connection that ended without an answer."""
BOUNDARY = "b0undary"

Address = tuple[str, int]
Attack = Callable[[random.Random, Address], str]


# ── requests ──


def form(parts: list[tuple[str, bytes]]) -> bytes:
    """Return the body of a form; each part is its Content-Disposition without `form-data`, and its content."""
    return (
        b"".join(
            f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode("utf-8", "surrogatepass")
            + content
            + b"\r\n"
            for head, content in parts
        )
        + f"--{BOUNDARY}--\r\n".encode()
    )


def request(
    body: bytes, *, length: int | None = None, extra: str = "", path: str = ROUTE, method: str = "POST"
) -> bytes:
    """Return a request with a form as its body."""
    length = len(body) if length is None else length
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return f"{head}Content-Length: {length}\r\n{extra}\r\n".encode() + body


def upload(sound: bytes, fields: dict[str, str] | None = None, name: str = "a.wav") -> bytes:
    """Return a request with a sound."""
    parts = [(f'name="{field}"', value.encode("utf-8", "surrogatepass")) for field, value in (fields or {}).items()]
    return request(form([*parts, (f'name="file"; filename="{name}"', sound)]))


def send(address: Address, pieces: list[bytes], pause_s: float = 0.0, *, wait: bool = True) -> str:
    """Send bytes on a connection of their own; return the status of the answer, or that it was closed."""
    with contextlib.closing(socket.create_connection(address, timeout=ANSWER_S)) as connection:
        with contextlib.suppress(ConnectionError):  # the server may answer and close before the end
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause_s)
        if not wait:
            return CLOSED
        answer = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in answer and (received := connection.recv(1 << 16)):
                answer += received
    match = re.match(rb"HTTP/1.1 (\d{3}) ", answer)
    return match[1].decode() if match else CLOSED


# ── sounds ──


def make_sound(kind: str = "WAV", seconds: float = 1.0) -> bytes:
    """Return a file of tones."""
    return sound_file(burst(seconds, seed=7), kind=kind)


def any_sound(rng: random.Random) -> bytes:
    """Return a file of one of the kinds that are read."""
    return make_sound(rng.choice(("WAV", "FLAC", "OGG", "MP3")))


# ── attacks ──


def truncated(rng: random.Random, address: Address) -> str:
    """A sound that ends early."""
    sound = any_sound(rng)
    return send(address, [upload(sound[: rng.randrange(1, len(sound))])])


def mutated(rng: random.Random, address: Address) -> str:
    """A sound with a few wrong bytes, more of them in its header."""
    sound = bytearray(any_sound(rng))
    for _ in range(rng.randrange(1, 20)):
        sound[rng.randrange(rng.choice((64, len(sound))))] = rng.randrange(256)
    return send(address, [upload(bytes(sound))])


def bombs(rng: random.Random, address: Address) -> str:
    """A small file of much silence, or whose header claims much sound."""
    if rng.random() < 0.5:
        file = io.BytesIO()
        soundfile.write(
            file, np.zeros(int(MAX_SOUND_S * 8000) + 8000 * rng.randrange(1, 600), np.int16), 8000, format="FLAC"
        )
        return send(address, [upload(file.getvalue())])
    sound = bytearray(make_sound("FLAC"))
    sound[18:26] = rng.randbytes(8)  # rate, channels and samples of STREAMINFO
    return send(address, [upload(bytes(sound))])


def not_sounds(rng: random.Random, address: Address) -> str:
    """Texts, archives, playlists that name other files, and noise."""
    content = rng.choice(
        (
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
            b"ffconcat version 1.0\nfile /etc/passwd\n",
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            b"%PDF-1.7\n" + rng.randbytes(100),
            b"PK\x03\x04" + rng.randbytes(1000),
            b"\x89PNG\r\n\x1a\n" + rng.randbytes(100),
            zlib.compress(bytes(10_000_000)),
            rng.randbytes(rng.randrange(1, 5000)),
            bytes(rng.randrange(1, 5000)),
            b"\x1aE\xdf\xa3" + rng.randbytes(500),
            b"RIFF" + rng.randbytes(4) + b"WAVE" + rng.randbytes(200),
            b"\0\0\0\x20ftypM4A " + rng.randbytes(500),
            b"OggS" + rng.randbytes(500),
            b"ID3" + rng.randbytes(500),
        )
    )
    return send(address, [upload(content)])


def names(rng: random.Random, address: Address) -> str:
    """A sound under a name that leads elsewhere, controls a terminal or is endless."""
    name = rng.choice(
        (
            "../../../../etc/passwd",
            "/etc/passwd",
            "C:\\windows\\system32\\config",
            "a\0b.wav",
            "\x1b[2J.wav",
            "$(reboot).wav",
            "x" * rng.randrange(1000, 7000),
            "ａｕｄｉｏ\u202egpj.wav",
            "\ud800.wav",
            "",
            'a"; name="model',
            "a\\",
        )
    )
    return send(address, [upload(make_sound(), name=name)])


def fields(rng: random.Random, address: Address) -> str:
    """Known and unknown fields with senseless values."""
    values = (
        "",
        "0",
        "-1",
        "nan",
        "1e999",
        "true",
        "[" * 5000,
        '{"a":' * 500,
        "x" * 60_000,
        "\0",
        "\ud800",
        "../x",
        "json",
    )
    chosen = [*rng.sample([name for name in FIELDS if name != "file"], 3), rng.choice(("extra", "__class__", "file[]"))]
    return send(address, [upload(make_sound(), {name: rng.choice(values) for name in chosen})])


def forms(rng: random.Random, address: Address) -> str:
    """Forms that are cut, flooded with parts or headers, or not forms."""
    body = form([('name="model"', b""), ('name="file"; filename="a"', make_sound())])
    cut = rng.randrange(len(body) - 4)
    many = form([(f'name="f{i}"', b"x") for i in range(rng.randrange(65, 500))])
    bad = rng.choice(
        (
            body[:cut],
            body[cut:],
            many,
            body.replace(BOUNDARY.encode(), b"other", rng.randrange(1, 3)),
            body.replace(b"\r\n", b"\n"),
            body.replace(b"form-data", b"attachment"),
            body.replace(b'name="file"', b"name*=utf-8''file"),
            f"--{BOUNDARY}\r\n".encode() + b"X: y\r\n" * rng.randrange(1, 5000) + b"\r\nx\r\n",
            f"--{BOUNDARY}\r\n".encode() + b"X" * rng.randrange(1, 50_000),
            b"\r\n" * rng.randrange(1, 10_000),
            b"",
            rng.randbytes(3000),
            form([('name="file"; filename="a"', form([('name="file"; filename="b"', b"x")]))]),
        )
    )
    return send(address, [request(bad)])


def oversize(rng: random.Random, address: Address) -> str:
    """Bodies over the limit, with a length, with a false one, and without."""
    size = MAX_BODY_BYTES + rng.randrange(1, MAX_BODY_BYTES)
    if rng.random() < 0.4:
        return send(address, [request(b"", length=size), bytes(1000)])
    body = form([('name="file"; filename="a"', bytes(size))])
    if rng.random() < 0.4:
        return send(address, [request(body)])
    head = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    pieces = (body[i : i + 0x8000] for i in range(0, len(body), 0x8000))
    return send(address, [head, *(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)])


def aborted(rng: random.Random, address: Address) -> str:
    """Clients that leave in the middle of a request, or before the answer."""
    whole = upload(make_sound(seconds=3))
    return send(address, [whole[: rng.randrange(len(whole) + 1)]], wait=False)


def slow(rng: random.Random, address: Address) -> str:
    """Clients that stop sending, in the headers or in the body."""
    whole = upload(make_sound())
    return send(address, [whole[: rng.choice((rng.randrange(60), rng.randrange(300, len(whole))))]])


def malformed(rng: random.Random, address: Address) -> str:
    """What is hardly HTTP: garbage, two lengths, bad chunks, endless headers, pipelines."""
    good = request(b"x")
    bad = rng.choice(
        (
            rng.randbytes(200) + b"\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            good.replace(b"Content-Length: 1", b"Content-Length: -1"),
            good.replace(b"Content-Length: 1", b"Content-Length: 1\r\nContent-Length: 2"),
            good.replace(b"Content-Length: 1", b"Content-Length: 1\r\nTransfer-Encoding: chunked"),
            good.replace(b"Content-Length: 1", b"Transfer-Encoding: chunked") + b"zz\r\n",
            good.replace(b"Content-Length: 1", b"Transfer-Encoding: gzip, chunked"),
            b"POST " + b"/" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            good.replace(b"Host: localhost", b"Host: localhost\r\n" + b"X-A: b\r\n" * 10_000),
            good.replace(b"Host: localhost", b"Host: localhost\r\nX-A: " + b"b" * 100_000),
            good.replace(b"Host: localhost", b"Host: localhost\r\nX\0: y"),
            b"\x16\x03\x01\x02\x00\x01\x00" + rng.randbytes(100),
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
        )
    )
    return send(address, [bad, b"\r\n\r\n"])


def routes(rng: random.Random, address: Address) -> str:
    """Methods and paths that there are not."""
    path = rng.choice(
        (
            "/",
            "/../etc/passwd",
            "/v1/models/%2e%2e%2f",
            "/page/../app.py",
            "/v1/models/" + "x" * 5000,
            "/%00",
            "/v1//x",
            ROUTE,
        )
    )
    method = rng.choice(("GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "HEAD", "FOO"))
    return send(address, [request(b"", path=path, method=method)])


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of attack, and the answers that are right."""

    attack: Attack
    allowed: tuple[str, ...]


KINDS = {
    "truncated": Kind(truncated, ("200", "415", "422")),
    "mutated": Kind(mutated, ("200", "415", "422")),
    "bombs": Kind(bombs, ("200", "415", "422")),
    "not_sounds": Kind(not_sounds, ("415", "422", "200")),
    "names": Kind(names, ("200", "400")),
    "fields": Kind(fields, ("200", "400", "404")),
    "forms": Kind(forms, ("400", "200", "415")),
    "oversize": Kind(oversize, ("413", CLOSED)),
    "aborted": Kind(aborted, (CLOSED,)),
    "slow": Kind(slow, ("408", CLOSED)),
    "malformed": Kind(malformed, ("400", "200", "404", "408", CLOSED)),
    "routes": Kind(routes, ("200", "400", "404", "405")),
}
