"""The hostile requests: what each kind sends, and which answers are right."""

import io
import random
import socket
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

Address = tuple[str, int]
MAX_BODY_BYTES, MAX_MEGAPIXELS, IDLE_S, ANSWER_S = 1 << 18, 0.25, 0.5, 20.0
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
RUBBISH = ("dropped", "400")
"""Answers to what is no HTTP: the connection is closed, or 400."""


class Kind(NamedTuple):
    """An attack, and the statuses that are right."""

    attack: Callable[[random.Random, Address], str]
    allowed: tuple[str, ...]


def send(address: Address, parts: list[bytes], *, reads: bool = True) -> str:
    """Send the parts; return the status of the answer, `dropped` without one, `timeout`, or `left` if none is read."""
    with socket.create_connection(address, timeout=ANSWER_S) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            if not reads:
                return "left"
            head = connection.recv(65536)
            return head.split()[1].decode() if head.startswith(b"HTTP/1.1 ") else "dropped"
        except TimeoutError:
            return "timeout"
        except OSError:
            return "dropped"


def head(length: int, more: str = "", target: str = "/v1/segment") -> bytes:
    """Return the head of a request."""
    return f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def raw(content: bytes, target: str = "/v1/segment") -> list[bytes]:
    """Return a request whose body is the image."""
    return [head(len(content), target=target), content]


def form(parts: list[tuple[str, bytes]], boundary: str = "b") -> list[bytes]:
    """Return a form of parts, each its disposition and content."""
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + content + b"\r\n"
        for name, content in parts
    )
    body += f"--{boundary}--\r\n".encode()
    return [head(len(body), f"Content-Type: multipart/form-data; boundary={boundary}\r\n"), body]


def image_file(rng: random.Random, kind: str | None = None) -> bytes:
    """Return an intact image file."""
    shape = (rng.randint(1, 90), rng.randint(1, 90), 3)
    pixels_hwc = np.frombuffer(rng.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)
    file = io.BytesIO()
    Image.fromarray(pixels_hwc).save(file, kind or rng.choice(FORMATS))
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, rows: bytes, more: bytes = b"") -> bytes:
    start = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + more + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def intact(rng: random.Random, address: Address) -> str:
    """An intact image."""
    return send(address, raw(image_file(rng), f"/v1/segment?format={rng.choice(('png', 'coco', 'geojson', 'npz'))}"))


def truncated(rng: random.Random, address: Address) -> str:
    """An image cut off at any byte."""
    content = image_file(rng)
    return send(address, raw(content[: rng.randrange(1, len(content))]))


def flipped(rng: random.Random, address: Address) -> str:
    """An image with up to 30 random bytes changed."""
    content = bytearray(image_file(rng))
    for _ in range(rng.randint(1, 30)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return send(address, raw(bytes(content)))


def magic_only(rng: random.Random, address: Address) -> str:
    """The first bytes of an image, and noise."""
    return send(address, raw(image_file(rng)[: rng.randint(2, 40)] + rng.randbytes(rng.randint(0, 5000))))


def huge_header(rng: random.Random, address: Address) -> str:
    """A header that states up to 4 billion pixels a side."""
    side = rng.choice((1000, 65_000, 2**31 - 1))
    content = rng.choice((
        _png(side, side, zlib.compress(bytes(100))),
        b"GIF89a" + struct.pack("<HH", min(side, 65535), min(side, 65535)) + b"\xf7\0\0" + bytes(900),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
    ))  # fmt: skip
    return send(address, raw(content))


def bomb(rng: random.Random, address: Address) -> str:
    """A few bytes that unpack to many: rows, text or a profile."""
    zeros = zlib.compress(bytes(50_000_000), 9)
    content = rng.choice((
        _png(500, 400, zeros),
        _png(50, 50, zlib.compress(bytes(50 * 151)), _chunk(b"zTXt", b"a\0\0" + zeros)),
        _png(50, 50, zlib.compress(bytes(50 * 151)), _chunk(b"iCCP", b"a\0\0" + zeros)),
    ))  # fmt: skip
    return send(address, raw(content))


def many_frames(rng: random.Random, address: Address) -> str:
    """An animation, or a file of pages."""
    frames = [Image.new("L", (20, 20), n) for n in range(rng.randint(2, 40))]
    file = io.BytesIO()
    frames[0].save(file, rng.choice(("GIF", "TIFF")), save_all=True, append_images=frames[1:])
    return send(address, raw(file.getvalue()))


def lying_volume(rng: random.Random, address: Address) -> str:
    """A NIfTI volume, a DICOM image or an array whose header promises more than the file holds."""
    side = rng.choice((1 << 9, 1 << 12, (1 << 15) - 1))
    match rng.choice(("nifti", "dicom", "array")):
        case "nifti":
            header = bytearray(352)
            struct.pack_into("<i", header, 0, 348)
            struct.pack_into("<8h", header, 40, 3, side, side, rng.randrange(1, side), 1, 1, 1, 1)
            struct.pack_into("<2h", header, 70, 2, 8)
            header[344:348] = b"n+1\0"
            start = bytes(header)
        case "dicom":
            start = bytes(128) + b"DICM" + rng.randbytes(rng.randrange(64))
        case _:
            shape = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({side}, {side}), }}\n".encode()
            start = b"\x93NUMPY\x01\0" + struct.pack("<H", len(shape)) + shape
    return send(address, raw(start + rng.randbytes(rng.randrange(500))))


def other_type(rng: random.Random, address: Address) -> str:
    """Something else: text, a PDF, an archive, an array, noise, SVG."""
    starts = (
        b"hello ",
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"\x93NUMPY\x01\0",
        b"\x1f\x8b\x08",
        b"\0",
        b"<svg xmlns=",
        b"\xff\xfe",
    )
    return send(address, raw(rng.choice(starts) + rng.randbytes(rng.randint(0, 3000))))


def names(rng: random.Random, address: Address) -> str:
    """A name that is a path, a command or a control character."""
    name = rng.choice(
        ("../../etc/passwd", "/dev/zero", "$(reboot)", "a\0b", "\x1b[2J", "x" * 3000, "CON", "a;b", "%2e%2e/")
    )
    return send(address, form([(f'name="file"; filename="{name}"', image_file(rng))]))


def bad_form(rng: random.Random, address: Address) -> str:
    """A form without a file, with many fields, a wrong boundary, or cut off."""
    file = ('name="file"; filename="a"', image_file(rng))
    choice = rng.randrange(5)
    if choice == 0:
        return send(address, form([('name="format"', b"png")]))
    if choice == 1:
        return send(address, form([*((f'name="f{i}"', b"x") for i in range(200)), file]))
    if choice == 2:
        return send(address, form([('name="format"', rng.randbytes(20_000)), file]))
    if choice == 3:
        parts = form([file])
        return send(address, [parts[0].replace(b"boundary=b", b"boundary=c"), parts[1]])
    body = form([file])[1]
    body = body[: rng.randrange(1, len(body) - 8)]
    return send(address, [head(len(body), "Content-Type: multipart/form-data; boundary=b\r\n"), body])


def bad_option(rng: random.Random, address: Address) -> str:
    """An option that does not exist, or has no such value."""
    options = ("format=exe", "format=../png", "opacity=1e999", "opacity=nan", "probabilities=2", "model=other", "a=b")
    option = rng.choice((*options, "format=%00", "x" * 2000))
    return send(address, raw(image_file(rng), f"/v1/segment?{option}"))


def oversize(rng: random.Random, address: Address) -> str:
    """A body over the limit, with its length stated or in chunks."""
    if rng.random() < 0.5:
        return send(address, [head(rng.choice((MAX_BODY_BYTES + 1, 10**12, 10**30)))])
    chunks = [b"10000\r\n" + bytes(65536) + b"\r\n"] * 8
    return send(
        address, [b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", *chunks]
    )


def wrong_length(rng: random.Random, address: Address) -> str:
    """A length that is no number, negative, or stated twice."""
    length = rng.choice(("-1", "abc", "1e3", "0x10", "5\r\nContent-Length: 6", "9" * 400))
    return send(
        address,
        [f"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode(), b"abcde"],
    )


def aborted(rng: random.Random, address: Address) -> str:
    """A client that leaves: in the head, in the body, or while it waits."""
    content = image_file(rng)
    whole = b"".join(raw(content))
    return send(address, [whole[: rng.randrange(1, len(whole) + 1)]], reads=False)


def slow(rng: random.Random, address: Address) -> str:
    """A client that stops sending, in the head or in the body."""
    content = image_file(rng)
    start, content = raw(content)
    return send(address, [start[: rng.randrange(1, len(start))]] if rng.random() < 0.5 else [start, content[:1]])


def no_http(rng: random.Random, address: Address) -> str:
    """Something other than HTTP, or heads that are too long."""
    return send(address, [rng.choice((
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + rng.randbytes(40) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 100_000,
        rng.randbytes(rng.randint(20, 2000)) + b"\r\n\r\n",
        b"POST /v1/segment HTTP/9.9\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ))])  # fmt: skip


def other_route(rng: random.Random, address: Address) -> str:
    """A path or a method that does not exist."""
    path = rng.choice(
        ("/../../etc/passwd", "/v1/%2e%2e/x", "/v1/models/" + "a" * 3000, "//", "/v1/segment/", "/admin", "/%ff")
    )
    method = rng.choice(("GET", "PUT", "DELETE", "OPTIONS", "PATCH"))
    return send(address, [f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()])


IMAGE = ("200", "415", "422")
KINDS = {
    "intact": Kind(intact, ("200",)),
    "truncated": Kind(truncated, IMAGE),
    "flipped": Kind(flipped, IMAGE),
    "magic_only": Kind(magic_only, IMAGE),
    "huge_header": Kind(huge_header, ("415", "422")),
    "bomb": Kind(bomb, ("200", "422")),
    "many_frames": Kind(many_frames, ("200", "422")),  # a GIF is refused, a stack of pages has a mask for each
    "lying_volume": Kind(lying_volume, ("413", "415", "422")),
    "other_type": Kind(other_type, ("415",)),
    "names": Kind(names, ("200", "400")),
    "bad_form": Kind(bad_form, ("400",)),
    "bad_option": Kind(bad_option, ("400", "404")),
    "oversize": Kind(oversize, ("413", "429", "400", "dropped")),
    "wrong_length": Kind(wrong_length, RUBBISH),
    "aborted": Kind(aborted, ("left",)),
    "slow": Kind(slow, ("408", "dropped")),
    "no_http": Kind(no_http, RUBBISH),
    "other_route": Kind(other_route, ("404", "405", "400")),
}
