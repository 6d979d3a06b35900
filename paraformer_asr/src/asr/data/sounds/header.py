"""What can be said of a sound file before it is decoded: whether it is one, and whether its end is there.

Decoders pass over a missing end in silence: a WAV or Ogg file that was cut off while copying just sounds shorter.
"""

import struct
from pathlib import Path

import soundfile

from asr.data.sounds.kinds import READABLE, advice, is_text, read_start, sound_kind
from asr.errors import UserError
from asr.files import open_file

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
"""What is read, whatever the suffix says. The decoder knows many more formats, some of them rarely tested."""

MIN_RATE_HZ, MAX_RATE_HZ, MAX_CHANNELS = 1000, 384_000, 64

MAX_SAMPLES_PER_SECOND = 3_072_000
"""All channels counted: 64 at 48 kHz, or 8 at 384 kHz. A second of sound costs no more than that."""

MAX_SAMPLES_PER_BYTE = 8192
"""No format packs a channel closer: a FLAC frame of up to 65,535 equal samples takes at least 11 bytes."""

OGG_PAGE_MAX = 27 + 255 + 255 * 255
"""Bytes of the longest Ogg page."""

STREAMED = 0x7FFF0000
"""WAV writers into a pipe do not know the length, and put something from here up to 2³² − 1."""


def check_header(path: Path, sound: soundfile.SoundFile) -> None:
    """Refuse what is not to be decoded.

    Raises:
        UserError: naming the file and what its header says.
    """
    if sound.format not in FORMATS:
        raise UserError(f"{path}: sound of the kind {sound.format}; expected WAV, FLAC, OGG or MP3{advice(path)}")
    if not MIN_RATE_HZ <= sound.samplerate <= MAX_RATE_HZ or sound.channels > MAX_CHANNELS:
        raise UserError(
            f"{path}: expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz and at most {MAX_CHANNELS} channels, "
            f"found {sound.samplerate} Hz and {sound.channels}"
        )
    if sound.samplerate * sound.channels > MAX_SAMPLES_PER_SECOND:
        found = f"{sound.channels} channels at {sound.samplerate} Hz"
        raise UserError(f"{path}: {found}, expected at most {MAX_SAMPLES_PER_SECOND} samples in a second")
    cut = find_cut(path)
    if cut:
        raise UserError(f"{path}: cut off: {cut}")
    num_samples, num_bytes = claimed_samples(sound), path.stat().st_size
    if num_samples == 0:
        raise UserError(f"{path}: holds no samples")
    if num_samples is not None and num_samples > MAX_SAMPLES_PER_BYTE * num_bytes:
        raise UserError(f"{path}: its header says {num_samples} samples, which {num_bytes} bytes cannot hold")


def claimed_samples(sound: soundfile.SoundFile) -> int | None:
    """Return the samples of a channel by the header; None where the writer did not know their number."""
    return sound.frames if sound.frames < 1 << 62 else None


def describe_file(path: Path) -> str:
    """Return what a file that is no sound looks like, for a message."""
    start = read_start(path)
    if not start:
        return "an empty file"
    if is_text(start):
        return f"a text that begins with {start[:24].decode()!r}"
    if kind := sound_kind(path):
        return f"{'damaged ' if kind in READABLE else ''}sound of the kind {kind}"
    return f"no sound that can be read, its first bytes are {start[:8].hex(' ')}"


def find_cut(path: Path) -> str:
    """Return how a WAV or Ogg file is seen to be cut off, "" where nothing shows it (or it is of another kind)."""
    with open_file(path) as file:
        start = file.read(12)
        magic, kind = start[:4], start[8:]
        size = file.seek(0, 2)
        if magic in (b"RIFF", b"RF64") and (kind == b"WAVE" or len(start) < 12):
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
