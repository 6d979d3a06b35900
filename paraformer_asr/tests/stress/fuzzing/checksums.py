"""Checksums made good again after a change, so that the damage gets past them: FLAC, Ogg, zip."""

import io
import struct
import zipfile
from collections.abc import Callable


def _crc_table(polynomial: int, bits: int) -> list[int]:
    """Return the CRCs of all bytes, most significant bit first."""
    table = []
    for byte in range(256):
        crc = byte << bits - 8
        for _ in range(8):
            crc = crc << 1 ^ (polynomial if crc >> bits - 1 else 0)
            crc &= (1 << bits) - 1
        table.append(crc)
    return table


_TABLES = {8: _crc_table(0x07, 8), 16: _crc_table(0x8005, 16), 32: _crc_table(0x04C11DB7, 32)}


def crc(content: bytes, bits: int) -> int:
    """Return the CRC-8 or CRC-16 of FLAC, or the CRC-32 of Ogg."""
    value, mask, table = 0, (1 << bits) - 1, _TABLES[bits]
    for byte in content:
        value = value << 8 & mask ^ table[value >> bits - 8 ^ byte]
    return value


def flac_frames(content: bytes) -> list[int]:
    """Return the places of the frames of a FLAC file: those of a header whose CRC-8 is right."""
    places = []
    place = content.find(b"\xff\xf8")
    while place >= 0:
        end = _end_of_flac_header(content, place)
        if end < len(content) and crc(content[place:end], 8) == content[end]:
            places.append(place)
        place = content.find(b"\xff\xf8", place + 1)
    return places


def _end_of_flac_header(content: bytes, place: int) -> int:
    """Return the place of the header's CRC-8."""
    if place + 5 > len(content):
        return len(content)
    size, rate = content[place + 2] >> 4, content[place + 2] & 15
    leading = next((n for n in range(8) if not content[place + 4] << n & 0x80), 8)
    number = max(leading, 1)  # the number of the frame, coded as UTF-8 is
    return place + 4 + number + {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)


def fix_flac(content: bytes, places: list[int]) -> bytes:
    """Return the FLAC file with the checksums of the frames at `places` made good."""
    fixed = bytearray(content)
    for start, stop in zip(places, [*places[1:], len(fixed)], strict=True):
        end = _end_of_flac_header(fixed, start)
        if stop - start > 8 and end < stop:
            fixed[end] = crc(fixed[start:end], 8)
            fixed[stop - 2 : stop] = struct.pack(">H", crc(fixed[start : stop - 2], 16))
    return bytes(fixed)


def fix_ogg(content: bytes, change: Callable[[bytearray], None] = lambda page: None, serial: int = 1) -> bytes:
    """Return the Ogg file with one serial number in all pages and their checksums made good.

    Args:
        content: of the file; encoders draw the serial number, here it is always the same.
        change: called with each page before its checksum is made.
        serial: the number.
    """
    starts, place = [], content.find(b"OggS")
    while place >= 0:
        starts.append(place)
        place = content.find(b"OggS", place + 27)
    fixed = b""
    for start, stop in zip(starts, [*starts[1:], len(content)], strict=True):
        page = bytearray(content[start:stop])
        if len(page) >= 27:
            page[14:18] = struct.pack("<I", serial)
            change(page)
            page[22:26] = bytes(4)
            page[22:26] = struct.pack("<I", crc(page, 32))
        fixed += page
    return fixed


def repack_zip(content: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """Return the zip archive with other contents of its entries, uncompressed, its checksums right."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), change(name, old.read(name)))
    return packed.getvalue()
