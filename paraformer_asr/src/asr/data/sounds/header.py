"""What a sound file is, by its first bytes and its header: whether it can be decoded, and what to do if not.

Decoders pass over a missing end in silence: a WAV or Ogg file that was cut off while copying just sounds shorter.
"""

import re
import shlex
import struct
from pathlib import Path
from typing import BinaryIO

import soundfile

from asr.errors import UserError
from asr.files import open_file
from asr.untrusted import escaped

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
"""Formats that are read, whatever the suffix is. The decoder knows many more, some of them rarely tested."""

MIN_RATE_HZ, MAX_RATE_HZ, MAX_CHANNELS = 1000, 384_000, 64

MAX_SAMPLES_PER_SECOND = 3_072_000
"""Most samples in a second over all channels: 64 channels at 48 kHz, or 8 at 384 kHz."""

MAX_SAMPLES_PER_BYTE = 8192
"""Densest compression possible: a FLAC frame of up to 65,535 equal samples takes at least 11 bytes."""

OGG_PAGE_MAX = 27 + 255 + 255 * 255  # bytes of the longest Ogg page
STREAMED = 0x7FFF0000
"""WAV writers into a pipe do not know the length, and write a number from this one to 2³² − 1."""

SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3")  # suffixes of the kinds that are read

OTHER_SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".alac", ".amr", ".ape", ".au", ".avi", ".awb", ".caf", ".dsf",
    ".flv", ".gsm", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp4", ".mpc", ".nist", ".ra", ".shn",
    ".silk", ".snd", ".sph", ".spx", ".tta", ".voc", ".w64", ".weba", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip
"""Suffixes of kinds that are not read."""

HEADERLESS_SUFFIXES = (".alaw", ".g711", ".g722", ".pcm", ".raw", ".slin", ".sln", ".ulaw", ".vox")
"""Suffixes of samples without a header: the file does not state their format."""

READABLE = frozenset({"WAV", "FLAC", "OGG", "MP3"})

_STARTS = (
    (rb"RIFF....AVI ", "AVI video"),
    (rb"(RIFF|RF64)....WAVE", "WAV"),
    (rb"fLaC", "FLAC"),
    (rb"OggS", "OGG"),
    (rb"ID3|\xff[\xfb\xfa\xf3\xf2\xe3\xe2]", "MP3"),
    (rb"FORM....AIF[FC]", "AIFF"),
    (rb"FORM....(8SVX|16SV)", "IFF SVX"),
    (rb"\.snd|dns\.", "AU"),
    (rb"caff", "CAF"),
    (rb"NIST_1A", "NIST SPHERE"),
    (rb"riff\x2e\x91\xcf\x11", "W64"),
    (rb"....ftyp", "MPEG-4 (as .m4a and .mp4)"),
    (rb"\x1aE\xdf\xa3", "Matroska (as .webm and .mkv)"),
    (rb"0&\xb2u\x8ef\xcf\x11", "ASF (as .wma)"),
    (rb"\xff[\xf1\xf9\xf0\xf8]", "AAC"),
    (rb"\xff[\xfd\xfc\xf5\xf4]", "MPEG layer 2"),
    (rb"#!AMR", "AMR"),
    (rb"\x02?#!SILK", "SILK"),
    (rb"wvpk", "WavPack"),
    (rb"MAC ", "Monkey's Audio"),
    (rb"Creative Voice File", "VOC"),
    (rb"\.RMF|\.ra\xfd", "RealMedia"),
    (rb"FLV\x01", "Flash video"),
    (rb"DSD |FRM8", "DSD"),
    (rb"TTA[12]", "TTA"),
    (rb"ajkg", "Shorten"),
    (rb"\x0bw", "AC-3"),
)
_PATTERNS = tuple((re.compile(start, re.DOTALL), kind) for start, kind in _STARTS)


def check_header(path: Path, sound: soundfile.SoundFile) -> None:
    """Raise a UserError that names the file and what is wrong with its header, if anything is."""
    if sound.format not in FORMATS:
        raise UserError(f"{path}: sound of the kind {sound.format}; expected WAV, FLAC, OGG or MP3{advice(path)}")
    if not MIN_RATE_HZ <= sound.samplerate <= MAX_RATE_HZ or sound.channels > MAX_CHANNELS:
        raise UserError(
            f"{path}: expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz and at most {MAX_CHANNELS} channels, "
            f"found {sound.samplerate} Hz and {sound.channels}"
        )
    if sound.samplerate * sound.channels > MAX_SAMPLES_PER_SECOND:
        rate = f"{sound.channels} channels at {sound.samplerate} Hz"
        raise UserError(f"{path}: {rate}, expected at most {MAX_SAMPLES_PER_SECOND} samples in a second")
    if cut := find_cut(path):
        raise UserError(f"{path}: cut off: {cut}")
    num_samples, num_bytes = claimed_samples(sound), path.stat().st_size
    if num_samples == 0:
        raise UserError(f"{path}: holds no samples")
    if num_samples is not None and num_samples > MAX_SAMPLES_PER_BYTE * num_bytes:
        raise UserError(f"{path}: its header says {num_samples} samples, which {num_bytes} bytes cannot hold")


def claimed_samples(sound: soundfile.SoundFile) -> int | None:
    """Return the samples of a channel by the header; None if its writer did not know their number."""
    return sound.frames if sound.frames < 1 << 62 else None


def sound_kind(start: bytes) -> str:
    """Return the kind of sound that the first bytes of a file belong to, "" if none is known."""
    return next((kind for pattern, kind in _PATTERNS if pattern.match(start)), "")


def describe_file(path: Path) -> str:
    """Return what a file that is not a sound looks like, for a message."""
    start = _read_start(path)
    if not start:
        return "an empty file"
    if _is_text(start):
        return f"a text that begins with {start[:24].decode()!r}"
    if kind := sound_kind(start):
        return f"{'damaged ' if kind in READABLE else ''}sound of the kind {kind}"
    return f"no sound that can be read, its first bytes are {start[:8].hex(' ')}"


def is_sound(path: Path) -> bool:
    """Return whether a file in a folder counts as a sound, by its suffix or its first bytes.

    A sound of a kind that is not read counts too, so that a message names it; so does one that cannot be opened.
    """
    if path.suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES, *HEADERLESS_SUFFIXES):
        return True
    try:
        return bool(sound_kind(_read_start(path)))
    except OSError:
        return not path.suffix


def advice(path: Path) -> str:
    """Return the end of a message: the command that converts a sound of another kind, "" for other files."""
    try:
        start = _read_start(path)
    except OSError:
        return ""
    kind = sound_kind(start)
    if not kind and _is_text(start):
        return ""
    suffix = path.suffix.lower()
    headerless = not kind and suffix in HEADERLESS_SUFFIXES
    if kind in READABLE or not (kind or headerless or suffix in OTHER_SUFFIXES):
        return ""
    source, target = (escaped(shlex.quote(str(p))) for p in (path, path.with_suffix(".flac")))
    if headerless:
        command = f"ffmpeg -f s16le -ar 16000 -ac 1 -i {source} {target}"
        return f"; samples without a header: say how they were written, as in {command}"
    return f"; convert it: ffmpeg -i {source} -vn {target}"


def find_cut(path: Path) -> str:
    """Return what shows that a WAV or Ogg file is cut off, "" if nothing does or it is of another kind."""
    with open_file(path) as file:
        start = file.read(12)
        magic, kind = start[:4], start[8:]
        size = file.seek(0, 2)
        if magic in (b"RIFF", b"RF64") and (kind == b"WAVE" or len(start) < 12):
            return _find_cut_wav(file, size)
        if magic == b"OggS":
            return _find_cut_ogg(file, size)
    return ""


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


def _read_start(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(64)


def _is_text(start: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
