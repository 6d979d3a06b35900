"""The fields of a protocol buffer, as sentencepiece writes its models, without a description of the message."""

from collections.abc import Iterator
from typing import NamedTuple


class Field(NamedTuple):
    """One field of a message."""

    number: int  # which field
    value: bytes  # of a field that holds bytes, a text or a message; otherwise empty
    raw: bytes  # all of its bytes in the message


def read_fields(message: bytes) -> Iterator[Field]:
    """Yield the fields in order; RuntimeError for bytes that are no protocol buffer."""
    place = 0
    while place < len(message):
        start, value = place, b""
        tag, place = _varint(message, place)
        match tag & 7:
            case 0:
                _, place = _varint(message, place)
            case 1 | 5:
                place += 8 if tag & 7 == 1 else 4
            case 2:
                length, place = _varint(message, place)
                value = message[place : place + length]
                place += length
            case _:
                raise RuntimeError("not a protocol buffer")
        yield Field(tag >> 3, value, message[start:place])
    if place != len(message):
        raise RuntimeError("a protocol buffer that is cut off")


def write_field(number: int, value: bytes) -> bytes:
    """Return the bytes of a field that holds `value`."""
    return _as_varint(number << 3 | 2) + _as_varint(len(value)) + value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and the place after it."""
    value = 0
    for shift, byte in enumerate(message[place : place + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + shift + 1
    raise RuntimeError("not a protocol buffer")


def _as_varint(value: int) -> bytes:
    low, value = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _as_varint(value) if value else bytes([low])
