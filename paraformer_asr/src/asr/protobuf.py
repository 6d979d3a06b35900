"""Takes a protobuf message apart without its description: ONNX files, and models of sentencepiece.

A message is a row of fields, each a number that says what it is, and a value. A value may be a message again; whoever
knows that it is one asks for its fields. Lengths are checked against what is left.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

MAX_TEXT_BYTES = 1 << 20  # longest text accepted, in bytes
MAX_VARINT_BYTES = 10

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types: how long a value is


class DamagedError(RuntimeError):
    """The bytes are not a message."""


class Field(NamedTuple):
    """One field of a message."""

    number: int  # which field
    value: Any  # an integer, or a view of the bytes of everything else
    raw: memoryview  # all of its bytes in the message


def fields(message: memoryview | bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a message: an integer, or the bytes of everything else."""
    return (field[:2] for field in whole_fields(message))


def whole_fields(message: memoryview | bytes) -> Iterator[Field]:
    """Yield the fields of a message, each with all of its bytes."""
    message = memoryview(message)
    place, end = 0, len(message)
    while place < end:
        start = place
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield Field(number, value, message[start:place])
            continue
        if wire == BYTES:
            length, place = _varint(message, place)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise DamagedError(f"a field of the unknown kind {wire}")
        if not number or not 0 <= length <= end - place:  # a negative one would lead back
            raise DamagedError(f"a field of {length} bytes where {end - place} are left")
        value, place = message[place : place + length], place + length
        yield Field(number, value, message[start:place])


def write_field(number: int, value: bytes) -> bytes:
    """Return the bytes of a field that holds `value`."""
    return _as_varint(number << 3 | BYTES) + _as_varint(len(value)) + value


def _as_varint(value: int) -> bytes:
    low, value = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _as_varint(value) if value else bytes([low])


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return an integer of 7 bits a byte, the lowest first, and the place behind it."""
    value = 0
    for count, byte in enumerate(message[place : place + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            value &= (1 << 64) - 1
            return (value if value < 1 << 63 else value - (1 << 64)), place + count + 1
    raise DamagedError("an integer without an end")


def varints(message: memoryview) -> np.ndarray:
    """Return int64[n], the integers one after another."""
    bytes_n = np.frombuffer(message, np.uint8)
    ends = np.flatnonzero(bytes_n < 0x80)
    if not len(bytes_n):
        return np.zeros(0, np.int64)
    if not len(ends) or ends[-1] != len(bytes_n) - 1:
        raise DamagedError("an integer without an end")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_VARINT_BYTES:
        raise DamagedError("an integer without an end")
    shifts = (7 * (np.arange(len(bytes_n)) - np.repeat(starts, lengths))).astype(np.uint64)
    return np.add.reduceat((bytes_n & 0x7F).astype(np.uint64) << shifts, starts).view(np.int64)


def message(value: Any) -> memoryview:
    """Return the bytes of a field that holds a message or packed integers."""
    if not isinstance(value, memoryview):
        raise DamagedError("a number where a message belongs")
    return value


def text(value: Any) -> str:
    """Return a field as a text."""
    if isinstance(value, int) or len(value) > MAX_TEXT_BYTES:
        raise DamagedError("a text that is too long")
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise DamagedError("a text that is not UTF-8") from None
