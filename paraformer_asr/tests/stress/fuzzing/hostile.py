"""What a stranger may put into a folder: names, links, pipes, devices and headers. All draws come from `rng`."""

import json
import os
import struct
from pathlib import Path
from random import Random
from typing import Any

STEMS = (
    b"a",
    b"A",
    b"a_2",
    b"a_overlay",
    b"\xc3\xa4",
    b"a\xcc\x88",
    b"\xc3\x9f",
    b"ss",
    b".",
    b"..",
    b"...",
    b"",
    b" ",
)
STEMS += (b"a\x1b[2J", b"a\nerror: b", b"\r", b"\x9b", b"\xff\xfe", b"\xe2\x80\xaea", b"con", b"-rf", b"~", b"x" * 240)
STEMS += (b"\xe8\xaa\x9e" * 80, b"%s{0}", b"a.b.c", b".hidden", b"a=b", b"\xed\xa0\x80", b"a\\..\\b", b"a:b", b" ")

PLANTS = ("pipe", "folder", "device", "link to a device", "link to a pipe", "link to itself", "link to nothing")
PLANTS += ("link to the same", "holes", "nothing", "a link to another file")

DTYPES = ("F32", "F64", "BF16", "I64", "U8", "F8_E4M3", "f32", "", None, 1, [], "\x1b[2J" * 50)
SIZES = (0, 1, 2, 3, 8, -1, 2**31, 2**32, 2**61, 2**63, 2**64, 10**400, 1.0, True, None, "2", [])
NAMES = ("a", "a/b", "a/b/c", "", "/", "a//b", "__metadata__", "\x1b[2J", "\u202e", "params/a", "x" * 5000, "\ud800")


def draw_name(rng: Random, suffixes: tuple[str, ...]) -> bytes:
    """Return a name that a file may have on Linux."""
    name = b"".join(rng.choice(STEMS) for _ in range(rng.choice((1, 1, 1, 2))))
    name += rng.choice([*suffixes, *suffixes, "", ".", ".PNG.txt"]).encode()
    name = name.replace(b"/", b"").replace(b"\0", b"")[:255]
    return name if name not in (b"", b".", b"..") else b"..." + suffixes[0].encode()


def plant(kind: str, path: Path) -> None:
    """Replace a file by one of `PLANTS`; what it leads to is beside it."""
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    other = path.with_name(f"{path.name}.other")
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device" | "link to a device":  # to make a device takes rights that nobody should need for this
            path.symlink_to("/dev/zero")
        case "link to a pipe":
            os.mkfifo(other)
            path.symlink_to(other.name)
        case "link to itself":
            path.symlink_to(path.name)
        case "link to nothing":
            path.symlink_to("no such file")
        case "link to the same":
            other.write_bytes(content)
            path.symlink_to(other.name)
        case "holes":
            with path.open("wb") as file:
                file.truncate(3 << 30)
        case "a link to another file":
            other.write_bytes(content[: len(content) // 2])
            path.symlink_to(other.name)


def draw_header(rng: Random) -> bytes:
    """Return a file of safetensors, mostly with a header that is not true."""
    entries, end = {}, 0
    for _ in range(rng.choice((1, 2, 5, 30))):
        name, shape, dtype = rng.choice(NAMES), [rng.randrange(4) for _ in range(rng.randrange(3))], "F32"
        size = 4
        for side in shape:
            size *= side
        entry: dict[str, Any] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
        entries[f"{name}{rng.choice(('', rng.randrange(99)))}"] = entry
    for entry in rng.sample(list(entries.values()), k=rng.choice((0, 0, 1, len(entries)))):
        match rng.randrange(5):
            case 0:
                entry["dtype"] = rng.choice(DTYPES)
            case 1:
                entry["shape"] = [rng.choice(SIZES) for _ in range(rng.choice((1, 2, 3, 40_000)))]
            case 2:
                entry["data_offsets"] = [rng.choice(SIZES) for _ in range(rng.choice((0, 1, 2, 2, 2, 3)))]
            case 3:
                entry.pop(rng.choice(list(entry)))
            case 4:
                entry["more"] = rng.choice(SIZES)
    content = _header_text(rng, entries).encode("utf-8", "surrogatepass")
    length = rng.choice((len(content),) * 20 + (0, 2**60, 2**64 - 1, len(content) - 1, len(content) + 1))
    return struct.pack("<Q", length) + content + bytes(max(0, end + rng.choice((0,) * 9 + (1, -1, 10_000))))


def _header_text(rng: Random, entries: dict[str, Any]) -> str:
    match rng.randrange(40):
        case 0:
            return "[" * 100_000
        case 1:
            return json.dumps({f"n{number}": {} for number in range(200_000)})
        case 2:
            return json.dumps(list(entries))
        case 3:
            return (
                "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()) * 2 + "}"
            )
    return json.dumps(entries, ensure_ascii=rng.random() < 0.5)
