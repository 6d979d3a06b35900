"""Which kind of sound a file holds, told by its first bytes, and what to do with one that is not read."""

import re
import shlex
from pathlib import Path

from asr.files import open_file
from asr.untrusted import escaped

SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""Of the kinds that are read."""

OTHER_SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".alac", ".amr", ".ape", ".au", ".avi", ".awb", ".caf", ".dsf",
    ".flv", ".gsm", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp4", ".mpc", ".nist", ".ra", ".shn",
    ".silk", ".snd", ".sph", ".spx", ".tta", ".voc", ".w64", ".weba", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip
"""Of kinds that are not read."""

HEADERLESS_SUFFIXES = (".alaw", ".g711", ".g722", ".pcm", ".raw", ".slin", ".sln", ".ulaw", ".vox")
"""Of samples without a header: nothing in the file says how they were written."""

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


def sound_kind(path: Path) -> str:
    """Return the kind of sound that the first bytes of a file are of, "" for none that is known.

    Raises:
        OSError: it cannot be read.
    """
    return _kind_of(read_start(path))


def read_start(path: Path) -> bytes:
    """Return the first bytes of a file."""
    with open_file(path) as file:
        return file.read(64)


def is_text(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a text in ASCII."""
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)


def _kind_of(start: bytes) -> str:
    return next((kind for pattern, kind in _PATTERNS if pattern.match(start)), "")


def is_sound(path: Path) -> bool:
    """Return whether a file in a folder is taken for a sound: by its first bytes, or else by its suffix.

    A sound of a kind that is not read counts as well, to be named; so does one that cannot be opened.
    """
    if path.suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES, *HEADERLESS_SUFFIXES):
        return True
    try:
        return bool(sound_kind(path))
    except OSError:
        return not path.suffix


def advice(path: Path) -> str:
    """Return what to type so that a sound of another kind can be read, "" for a file that is no sound."""
    try:
        start = read_start(path)
    except OSError:
        return ""
    kind = _kind_of(start)
    if not kind and is_text(start):
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
