"""What a sound file is, by its first bytes: what decodes it, and what to do if nothing does."""

import re
import shlex
from pathlib import Path

from asr.files import open_file
from asr.untrusted import escaped

SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3")  # suffixes of what libsndfile reads

OTHER_SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".alac", ".amr", ".ape", ".au", ".avi", ".awb", ".caf", ".dsf",
    ".flv", ".gsm", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp4", ".mpc", ".nist", ".ra", ".shn",
    ".silk", ".snd", ".sph", ".spx", ".tta", ".voc", ".w64", ".weba", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip
"""Suffixes of other sounds and videos: FFmpeg reads some of these kinds, the rest is named in a message."""

HEADERLESS_SUFFIXES = (".alaw", ".g711", ".g722", ".pcm", ".raw", ".slin", ".sln", ".ulaw", ".vox")
"""Suffixes of samples without a header: the file does not state their format."""

READABLE = frozenset({"WAV", "FLAC", "OGG", "MP3"})  # kinds that libsndfile reads

MPEG4, MATROSKA, ASF = "MPEG-4 (as .m4a and .mp4)", "Matroska (as .webm and .mkv)", "ASF (as .wma)"

DEMUXERS = {
    MATROSKA: "matroska",
    MPEG4: "mov",
    ASF: "asf",
    "AAC": "aac",
    "AMR": "amr",
    "AIFF": "aiff",
    "AVI video": "avi",
    "CAF": "caf",
}
"""Kinds that FFmpeg reads (`asr.data.sounds.media`), and its reader of each."""

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
    (rb"....ftyp(?!hei|hev|mif|msf|avi[fs]|crx)", MPEG4),  # the others are pictures
    (rb"\0...(moov|wide|free|skip)|....mdat", MPEG4),  # as old cameras write QuickTime
    (rb"\x1aE\xdf\xa3", MATROSKA),
    (rb"0&\xb2u\x8ef\xcf\x11", ASF),
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
    """Return the end of a message: what makes a sound of another kind readable, "" for other files."""
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
    install = 'install what reads it: pip install "paraformer-asr[media]"; or ' if kind in DEMUXERS else ""
    return f"; {install}convert it: ffmpeg -i {source} -vn {target}"


def _read_start(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(64)


def _is_text(start: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
