"""Whether a sound file lacks its end, by the sizes that its own headers state; nothing is decoded.

Decoders pass over a missing end in silence: a file that was cut off while copying just sounds shorter. A recording
whose writer did not know the length in advance (a browser's WebM, a WAV file from a pipe) states none, nor do AAC and
AMR streams; whether these are complete cannot be told here.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from asr.data.sounds.header import ASF, MATROSKA, MPEG4, sound_kind
from asr.files import open_file

OGG_PAGE_MAX = 27 + 255 + 255 * 255  # bytes of the longest Ogg page
STREAMED = 0x7FFF0000
"""WAV writers into a pipe do not know the length, and write a number from this one to 2³² − 1."""

MAX_BOXES = 100_000  # boxes looked at in an MPEG-4 file; a fragment of a recording has two
BOXES = {b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"styp", b"free", b"skip", b"wide", b"udta", b"uuid"}
SEGMENT = b"\x18S\x80g"  # the element of a Matroska file that holds everything but its first header
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_HEAD_BYTES = 1 << 16


def find_cut(path: Path) -> str:
    """Return what shows that a file is cut off, "" if nothing does."""
    with open_file(path) as file:
        start = file.read(12)
        size = file.seek(0, 2)
        if start[:4] in (b"RIFF", b"RF64") and (start[8:] == b"WAVE" or len(start) < 12):
            return _find_cut_wav(file, size)
        find = FINDERS.get(sound_kind(start))
        return find(file, size) if find else ""


def _find_cut_wav(file: BinaryIO, size: int) -> str:
    """Compare the length of the chunk `data` with the bytes that follow."""
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


def _find_cut_ogg(file: BinaryIO, size: int) -> str:
    file.seek(max(size - OGG_PAGE_MAX, 0))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    complete = len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
    return "" if complete else "its last page is not complete"


def _find_cut_mpeg4(file: BinaryIO, size: int) -> str:
    """Walk along the boxes of the file; `moov` is the index, which phones write last."""
    position, names = 0, set()
    for _ in range(MAX_BOXES):
        file.seek(position)
        head = file.read(16)
        if not head:
            return "" if b"moov" in names else "its index is missing, as in a recording that was not finished"
        length, name = struct.unpack(">I4s", head[:8].ljust(8, b"\0"))
        if length == 1:
            length = int.from_bytes(head[8:])
        if name not in BOXES or not length:  # other bytes, or a box that goes on to the end of the file
            return ""
        if position + length > size:
            return _lacking(length, size - position)
        names.add(name)
        position += max(length, 8)
    return ""


def _find_cut_matroska(file: BinaryIO, size: int) -> str:
    """Compare the length of the segment with the bytes that follow; a stream does not state it."""
    file.seek(4)
    length = _read_length(file)
    if length is None or length > size:
        return "its header is not complete"
    file.seek(length, 1)
    if file.read(4) != SEGMENT:
        return "" if file.tell() < size else "it ends before its samples begin"
    length, there = _read_length(file), size - file.tell()
    return _lacking(length, there) if length is not None and length > there else ""


def _read_length(file: BinaryIO) -> int | None:
    """Return the length of a Matroska element: its leading zero bits tell how many bytes it takes; None: unknown."""
    first = file.read(1)
    width = 9 - first[0].bit_length() if first else 9
    value = int.from_bytes(first + file.read(width - 1)) & ((1 << 7 * width) - 1)
    return None if width > 8 or value == (1 << 7 * width) - 1 else value


def _find_cut_form(file: BinaryIO, size: int) -> str:
    """Compare the length of the outermost chunk with the bytes that follow."""
    file.seek(0)
    head = file.read(8)
    length = int.from_bytes(head[4:], "big" if head[:4] == b"FORM" else "little")
    return _lacking(length, size - 8) if size - 8 < length < STREAMED else ""


def _find_cut_asf(file: BinaryIO, size: int) -> str:
    """Compare the size of the file with the one in its properties; a broadcast does not state it."""
    file.seek(0)
    head = file.read(ASF_HEAD_BYTES)
    properties = head[place:] if (place := head.find(ASF_PROPERTIES)) >= 0 else b""
    if len(properties) < 92 or properties[88] & 1:
        return ""
    length = int.from_bytes(properties[40:48], "little")
    return _lacking(length, size) if length > size else ""


def _lacking(length: int, there: int) -> str:
    return f"its header says {length} bytes, {there} are there"


FINDERS: dict[str, Callable[[BinaryIO, int], str]] = {
    "OGG": _find_cut_ogg,
    MPEG4: _find_cut_mpeg4,
    MATROSKA: _find_cut_matroska,
    "AIFF": _find_cut_form,
    "AVI video": _find_cut_form,
    ASF: _find_cut_asf,
}
"""Kind of sound → what looks for its end."""
