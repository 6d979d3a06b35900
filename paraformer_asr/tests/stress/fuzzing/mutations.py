"""Changes of bytes, of text and of files: blind ones, and those that know which values are dangerous."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

INTERESTING_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
LARGEST_SPAN = 64
MOST_CHANGES = 4

HARD_TEXTS = (
    "NaN",
    "-inf",
    "1e999",
    "-1",
    "0",
    "9" * 5000,
    "0x" + "f" * 400,
    "1e-400",
    "\0",
    "\x1b[2J",
    "\\ud800",
    "\\u0000",
    "\ufeff",
    "\u2028",
    "\x85",
    "\xa0",
    "\t",
    "\r",
    "\r\n",
    "é",
    "e\u0301",
    "🎙",
    "[" * 3000,
    '{"a":' * 2000,
    "../" * 40,
    "/dev/zero",
    "a" * 70_000,
    "null",
    "[]",
    "{}",
    '""',
    "true",
)
"""What readers of text stumble over: numbers out of range, ends of line, brackets too deep, paths that lead away."""


def hard_number(rng: random.Random, width: int, order: str) -> bytes:
    """Return a number at the edge of its type: 0, 1, the largest, the smallest, or a length of some gigabytes."""
    top = 1 << 8 * width
    value = rng.choice((0, 1, top - 1, top - 2, top // 2, top // 2 - 1, rng.randrange(top), 4 << 30, 60 * 96_000))
    return (value % top).to_bytes(width, order)


def flip_bit(rng: random.Random, content: bytearray, place: int) -> None:
    """Change one bit."""
    content[place] ^= 1 << rng.randrange(8)


def set_byte(rng: random.Random, content: bytearray, place: int) -> None:
    """Set one byte to 0, 0x7f, 0x80, 0xff and the like."""
    content[place] = rng.choice(INTERESTING_BYTES)


def set_number(rng: random.Random, content: bytearray, place: int) -> None:
    """Overwrite up to eight bytes by a number at the edge of its type."""
    number = hard_number(rng, rng.choice((2, 3, 4, 8)), rng.choice(("little", "big")))
    content[place : place + len(number)] = number[: len(content) - place]


def cut_off(rng: random.Random, content: bytearray, place: int) -> None:
    """Cut the end off."""
    del content[place:]


def remove_span(rng: random.Random, content: bytearray, place: int) -> None:
    """Take some bytes out."""
    del content[place : place + rng.randint(1, LARGEST_SPAN)]


def insert_span(rng: random.Random, content: bytearray, place: int) -> None:
    """Put random bytes in."""
    content[place:place] = rng.randbytes(rng.randint(1, LARGEST_SPAN))


def repeat_span(rng: random.Random, content: bytearray, place: int) -> None:
    """Put some bytes in once more, or hundreds of times."""
    span = content[place : place + rng.randint(1, LARGEST_SPAN)]
    content[place:place] = span * rng.choice((1, 1, 2, 300))


def move_span(rng: random.Random, content: bytearray, place: int) -> None:
    """Copy some bytes over others."""
    start = rng.randrange(len(content))
    span = content[start : start + rng.randint(1, LARGEST_SPAN)]
    content[place : place + len(span)] = span


BYTE_CHANGES: tuple[Callable[[random.Random, bytearray, int], None], ...] = (
    flip_bit,
    flip_bit,
    set_byte,
    set_number,
    cut_off,
    remove_span,
    insert_span,
    repeat_span,
    move_span,
)


def change_bytes(rng: random.Random, content: bytes, others: Sequence[bytes] = (), head: int = 0) -> bytes:
    """Return the content with one to four changes, or spliced with another.

    Args:
        rng: source of all chance.
        content: a valid sample.
        others: samples to splice with.
        head: half of the changes fall in this many bytes at the start; 0: all of them anywhere.
    """
    if others and rng.random() < 0.08:
        other = rng.choice(others)
        return content[: rng.randint(0, len(content))] + other[rng.randint(0, len(other)) :]
    changed = bytearray(content)
    for _ in range(rng.randint(1, MOST_CHANGES)):
        if changed:
            end = min(head, len(changed)) if head and rng.random() < 0.5 else len(changed)
            rng.choice(BYTE_CHANGES)(rng, changed, rng.randrange(end))
    return bytes(changed)


def change_text(rng: random.Random, content: bytes, words: Sequence[str] = (), others: Sequence[bytes] = ()) -> bytes:
    """Return a text with changes of its bytes, its lines or its words.

    Args:
        rng: source of all chance.
        content: a valid text.
        words: of its format, put in besides `HARD_TEXTS`.
        others: texts to splice with.
    """
    if rng.random() < 0.4:
        return change_bytes(rng, content, others)
    for _ in range(rng.randint(1, 3)):
        content = rng.choice((_change_lines, _put_word, _put_word))(rng, content, (*HARD_TEXTS, *words))
    return content


def _change_lines(rng: random.Random, content: bytes, words: Sequence[str]) -> bytes:
    """Repeat, remove, swap or empty lines, or change all ends of lines."""
    lines = content.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            lines.insert(first, lines[second])
        case 1:
            del lines[first]
        case 2:
            lines[first], lines[second] = lines[second], lines[first]
        case 3:
            lines[first] = b" " * rng.randrange(3)
        case 4:
            return rng.choice((b"\r\n", b"\r", b"\n\n")).join(lines)
        case _:
            lines[first] = rng.choice(words).encode()
    return b"\n".join(lines)


def _put_word(rng: random.Random, content: bytes, words: Sequence[str]) -> bytes:
    """Put a word in, or in place of a stretch without blanks."""
    word, place = rng.choice(words).encode(), rng.randint(0, len(content))
    if rng.random() < 0.5:
        return content[:place] + word + content[place:]
    parts = content.split(b" ")
    parts[rng.randrange(len(parts))] = word
    return b" ".join(parts)


def write_changed(rng: random.Random, path: Path, content: bytes) -> None:
    """Write the content; one time in forty put what is no file at all in its place."""
    path.unlink(missing_ok=True)
    if rng.random() > 1 / 40:
        path.write_bytes(content)
        return
    match rng.randrange(6):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(path.name)  # a link to itself
        case 3:
            path.symlink_to("/dev/zero")
        case 4:
            path.write_bytes(b"")
        case _:
            path.symlink_to("nowhere")
