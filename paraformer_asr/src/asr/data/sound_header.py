"""What can be said of a sound file before it is decoded: whether it is one, and whether its end is there.

Decoders pass over a missing end in silence: a WAV or Ogg file that was cut off while copying just sounds shorter.
"""

import struct
from pathlib import Path

OGG_PAGE_MAX = 27 + 255 + 255 * 255
"""Bytes of the longest Ogg page."""

STREAMED = 0x7FFF0000
"""WAV writers into a pipe do not know the length, and put something from here up to 2³² − 1."""


def describe_file(path: Path) -> str:
    """Return what a file that is no sound looks like, for a message."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return f"a text that begins with {start[:24].decode()!r}"
    return f"no sound that can be read, its first bytes are {start[:8].hex(' ')}"


def find_cut(path: Path) -> str:
    """Return how a WAV or Ogg file is seen to be cut off, "" where nothing shows it (or it is of another kind)."""
    with open(path, "rb") as file:
        magic = file.read(4)
        size = file.seek(0, 2)
        if magic in (b"RIFF", b"RF64"):
            return _find_cut_wav(file, size)
        if magic == b"OggS":
            return _find_cut_ogg(file, size)
    return ""


def _find_cut_wav(file, size: int) -> str:
    """Compare the length of the chunk `data` with what the file holds."""
    position, long_length = 12, None
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"ds64" and size >= position + 24:
            long_length = struct.unpack("<QQ", file.read(16))[1]
        if name == b"data":
            length = long_length if long_length is not None and length == 0xFFFFFFFF else length
            there = size - position - 8
            cut = there < length and (length < STREAMED or long_length is not None)
            return f"its header says {length} bytes of samples, {there} are there" if cut else ""
        position += 8 + length + length % 2
    return "it ends before its samples begin"


def _find_cut_ogg(file, size: int) -> str:
    """Look whether the last page is complete."""
    file.seek(max(size - OGG_PAGE_MAX, 0))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    complete = len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
    return "" if complete else "its last page is not complete"
