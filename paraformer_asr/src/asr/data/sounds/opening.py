"""Opens sound files of every kind that is read: by libsndfile, or by FFmpeg where that does not read them."""

import os
from pathlib import Path

import numpy as np
import soundfile

from asr.data.codec_noise import codecs_silenced
from asr.data.sounds.cut import find_cut
from asr.data.sounds.header import DEMUXERS, advice, describe_file, sound_kind
from asr.data.sounds.media import LENGTH_ERROR_S, MediaError, MediaFile
from asr.errors import UserError
from asr.files import open_file

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
"""Formats that libsndfile reads, whatever the suffix is. It knows many more, some of them rarely tested."""

KINDS = "WAV, FLAC, OGG, MP3, M4A, WebM, …"  # what messages expect

MIN_RATE_HZ, MAX_RATE_HZ, MAX_CHANNELS = 1000, 384_000, 64

MAX_SAMPLES_PER_SECOND = 3_072_000
"""Most samples in a second over all channels: 64 channels at 48 kHz, or 8 at 384 kHz."""

MAX_SAMPLES_PER_BYTE = 8192
"""Densest compression possible: a FLAC frame of up to 65,535 equal samples takes at least 11 bytes."""

MP3_FRAME = 1152  # error of the length in the header of an MP3 file, in samples


class _Sequential(soundfile.SoundFile):
    """A sound file that is read front to back: seeking after each read would fail if the header is wrong."""

    def seekable(self) -> bool:
        return False

    def read(self, *args, **kwargs) -> np.ndarray:
        with codecs_silenced():
            return super().read(*args, **kwargs)


def open_checked(path: Path) -> soundfile.SoundFile | MediaFile:
    """Return a sound file to be read front to back, its header checked.

    Raises:
        UserError: naming a file that is not a sound, is empty or cut off, or has a header that cannot be true; or a
            kind that needs the extra `media`, which is not installed.
    """
    try:
        with open_file(path) as file:  # refuses folders, pipes and devices
            kind = sound_kind(file.read(64))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    sound = _open_media(path, kind) if kind in DEMUXERS else _open_sound(path)
    try:
        _check_header(path, sound)
    except UserError:
        sound.close()
        raise
    return sound


def claimed_samples(sound: soundfile.SoundFile | MediaFile) -> int | None:
    """Return the samples of a channel by the header; None if its writer did not know their number."""
    return sound.frames if sound.frames < 1 << 62 else None


def length_error(sound: soundfile.SoundFile | MediaFile) -> int:
    """Return by how many samples the length in the header may exceed the sound."""
    if isinstance(sound, MediaFile):
        return round((LENGTH_ERROR_S + sound.gap_s) * sound.samplerate)
    return MP3_FRAME if sound.format == "MP3" else 0


def _open_sound(path: Path) -> _Sequential:
    try:
        with codecs_silenced():
            return _Sequential(os.fsencode(path) if os.name == "posix" else os.fspath(path))  # any bytes are a name
    except (soundfile.SoundFileError, TypeError):  # TypeError: a suffix of headerless sound, as .raw
        what = find_cut(path) or describe_file(path)
        raise UserError(f"{path}: {what}; expected a sound file ({KINDS}){advice(path)}") from None


def _open_media(path: Path, kind: str) -> MediaFile:
    try:
        return MediaFile(open_file(path), kind)
    except ImportError:
        raise UserError(f"{path}: sound of the kind {kind}{advice(path)}") from None
    except MediaError as error:
        cut = find_cut(path)
        raise UserError(f"{path}: cut off: {cut}" if cut else f"{path}: {error}") from None


def _check_header(path: Path, sound: soundfile.SoundFile | MediaFile) -> None:
    """Raise a UserError that names the file and what is wrong with its header, if anything is."""
    if sound.format not in FORMATS and not isinstance(sound, MediaFile):
        raise UserError(f"{path}: sound of the kind {sound.format}; expected {KINDS}{advice(path)}")
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
