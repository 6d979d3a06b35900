"""Changes of bytes, PNG chunks and zip archives, as damage or malice makes them. All draws come from `rng`.

Formats with checksums are changed in two ways: as they are, which the checksum finds, and with the checksum made right
again, so that the change reaches the code behind it.
"""

import functools
import io
import struct
import zipfile
import zlib
from random import Random

BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
LENGTHS = (0, 1, 0x7F, 0xFFFF, 0x10000, 60000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
SIDES = (0, 1, 7, 999, 1001, 14000, 60000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
BOMB_BYTES = 32 << 20


def change_bytes(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Return `content` after one to four changes.

    Args:
        rng: of the case.
        content: a file.
        others: files whose parts may be spliced in.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(CHANGES)(rng, content, others)
    return content


def _flip(rng: Random, content: bytes, _) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 8)) if content else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: Random, content: bytes, _) -> bytes:
    start, count = _span(rng, content)
    return content[:start] + bytes([rng.choice(BYTES)]) * count + content[start + count :]


def _overwrite_length(rng: Random, content: bytes, _) -> bytes:
    """Overwrite two, four or eight bytes with a number; half of the time near the start, where headers are."""
    field = struct.pack(rng.choice("<>") + rng.choice("IIIQ"), rng.choice(LENGTHS))
    field = field[: rng.choice((2, len(field)))]
    start = rng.randrange(min(len(content), rng.choice((64, 1 << 30))) or 1)
    return content[:start] + field + content[start + len(field) :]


def _truncate(rng: Random, content: bytes, _) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(rng: Random, content: bytes, _) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 4, 64, 5000))) + content[start:]


def _delete(rng: Random, content: bytes, _) -> bytes:
    start, count = _span(rng, content)
    return content[:start] + content[start + count :]


def _duplicate(rng: Random, content: bytes, _) -> bytes:
    start, count = _span(rng, content)
    times = rng.choice((1, 1, 2, 100))
    return content[: start + count] + content[start : start + count] * times + content[start + count :]


def _splice(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    other = rng.choice(others or [content])
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


CHANGES = (_flip, _flip, _overwrite, _overwrite_length, _truncate, _insert, _delete, _duplicate, _splice)


def _span(rng: Random, content: bytes) -> tuple[int, int]:
    """Return start and length of a part, mostly a short one."""
    start = rng.randrange(len(content) or 1)
    return start, min(rng.choice((1, 1, 2, 4, 16, 256, 4096)), len(content) - start)


# ---- PNG ---------------------------------------------------------------------------------------------------------


def change_png(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Return a PNG with a changed header, chunk or order of chunks, whose checksums are right."""
    chunks = split_png(content)
    place = rng.randrange(len(chunks))
    kind, data = chunks[place]
    match rng.randrange(6):
        case 0 | 1:
            chunks[0] = (chunks[0][0], _change_png_header(rng, chunks[0][1]))
        case 2:
            chunks[place] = (kind, change_bytes(rng, data, [d for _, d in chunks]))
        case 3:
            chunks.insert(rng.randint(1, len(chunks)), rng.choice(png_bombs()))
        case 4:
            chunks.insert(rng.randint(0, len(chunks)), chunks[place])
        case _:
            del chunks[place]
    return join_png(chunks)


def split_png(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return (kind, data) of the chunks of a sound PNG."""
    chunks, place = [], len(PNG_SIGNATURE)
    while place < len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        chunks.append((kind, content[place + 8 : place + 8 + size]))
        place += 12 + size
    return chunks


def join_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return the PNG of the chunks, with their checksums."""
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return PNG_SIGNATURE + b"".join(parts)


def _change_png_header(rng: Random, data: bytes) -> bytes:
    header = list(struct.unpack(">IIBBBBB", data))
    field = rng.randrange(len(header))
    header[field] = rng.choice(SIDES) if field < 2 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    if rng.random() < 0.3:
        header[:2] = rng.choice([(60000, 60000), (14000, 14000), (0x7FFFFFFF, 0x7FFFFFFF), (1, 1 << 30)])
    return struct.pack(">IIBBBBB", *header)


@functools.cache
def png_bombs() -> list[tuple[bytes, bytes]]:
    """Return chunks that are small here and large when they are decoded, or claim to be."""
    zeros = zlib.compress(bytes(BOMB_BYTES), 9)
    return [
        (b"iCCP", b"profile\0\0" + zeros),
        (b"zTXt", b"text\0\0" + zeros),
        (b"iTXt", b"text\0\1\0\0\0" + zeros),
        (b"IDAT", zeros),
        (b"tEXt", b"text\0" + b"x" * (2 << 20)),
        (b"acTL", struct.pack(">II", 0xFFFFFFFF, 0)),
        (b"fcTL", struct.pack(">IIIIIHHBB", 0, 60000, 60000, 0, 0, 1, 1, 0, 0)),
        (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(400)),
        (b"PLTE", bytes(4)),
        (b"tRNS", b"\0\xff"),
        (b"IEND", b""),
    ]


# ---- zip ---------------------------------------------------------------------------------------------------------


def change_zip(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Return a zip archive with one entry changed and its checksum right, or with sizes that are not true."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    method, place = zipfile.ZIP_STORED, rng.randrange(len(entries))
    name, data = entries[place]
    match rng.randrange(9):
        case 0 | 1 | 2:
            entries[place] = (name, change_bytes(rng, data, [d for _, d in entries]))
        case 3:
            del entries[place]
        case 4:
            entries[place] = (change_bytes(rng, name.encode(), []).decode("latin-1").replace("\0", "") or "x", data)
        case 5:
            entries[place] = (name, rng.choice(entries)[1])
        case 6:
            method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        case 7:
            entries[place], method = (name, data[:256] + bytes(BOMB_BYTES)), zipfile.ZIP_DEFLATED
        case _:
            return _claim(rng, content)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in dict(entries).items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def _claim(rng: Random, content: bytes) -> bytes:
    """Return the archive with a field of one of its directory entries overwritten: sizes, method, flags, offset."""
    starts = [i for i in range(len(content) - 46) if content[i : i + 4] == b"PK\x01\x02"]
    if not starts:
        return content
    offset, code = rng.choice([(8, "<H"), (10, "<H"), (20, "<I"), (24, "<I"), (24, "<I"), (28, "<H"), (42, "<I")])
    value = rng.choice(LENGTHS) & (0xFFFF if code == "<H" else 0xFFFFFFFF)
    start = rng.choice(starts) + offset
    field = struct.pack(code, value)
    return content[:start] + field + content[start + len(field) :]
