"""Sound files: WAV of all widths, FLAC, Ogg (Vorbis and Opus) and MP3, damaged and forged."""

import random
import struct
from pathlib import Path

import numpy as np
import soundfile

from asr.config import InferenceConfig
from asr.data.sounds.audio import audio_duration_s, iterate_audio, read_audio
from asr.errors import UserError
from asr.inference.segmentation import longest_segment, split_at_silences
from fuzzing import checksums
from fuzzing.mutations import change_bytes, hard_number, write_changed
from fuzzing.trials import Kind

RATE_HZ = 16_000
MAX_SECONDS = 60.0

WAV_VARIANTS = (
    ("WAV", "PCM_U8", 8000, 1),
    ("WAV", "PCM_16", 16_000, 1),
    ("WAV", "PCM_16", 44_100, 2),
    ("WAV", "PCM_24", 11_025, 1),
    ("WAV", "PCM_32", 16_000, 2),
    ("WAV", "FLOAT", 22_050, 1),
    ("WAV", "DOUBLE", 16_000, 1),
    ("WAV", "ULAW", 8000, 1),
    ("WAV", "ALAW", 8000, 2),
    ("WAV", "IMA_ADPCM", 16_000, 1),
    ("WAV", "MS_ADPCM", 16_000, 1),
    ("WAV", "GSM610", 8000, 1),
    ("WAVEX", "PCM_16", 48_000, 6),
    ("WAVEX", "FLOAT", 96_000, 1),
    ("RF64", "PCM_16", 16_000, 1),
    ("RF64", "PCM_24", 12_345, 3),
)
FLAC_VARIANTS = (("FLAC", "PCM_16", 16_000, 1), ("FLAC", "PCM_24", 44_100, 2), ("FLAC", "PCM_S8", 8000, 1))
PACKED_VARIANTS = (
    ("OGG", "VORBIS", 16_000, 1),
    ("OGG", "VORBIS", 44_100, 2),
    ("OGG", "OPUS", 16_000, 1),
    ("OGG", "OPUS", 48_000, 2),
    ("MP3", "MPEG_LAYER_III", 16_000, 1),
    ("MP3", "MPEG_LAYER_III", 44_100, 2),
)
ODD_SAMPLES = (0.0, -0.0, 1.0, -1.0, 1e-42, 5.0, 1e30, np.nan, np.inf, -np.inf)

BOMB_FRAMES, BOMB_RATE_HZ, BOMB_CHANNELS = 240_000, 96_000, 8
"""Silence of eight channels: 7.7 MB in memory come of a few kilobytes."""

WAV_FIELDS = {"size": (4, 4), "tag": (20, 2), "channels": (22, 2), "rate": (24, 4), "block": (32, 2), "bits": (34, 2)}
"""Place and width of the fields of a WAV header."""


def _waves(variant: tuple[str, str, int, int]) -> list[np.ndarray]:
    """Return sounds float64[n, c]: speech-like, constant, clipped, and as floats one with odd samples."""
    _, subtype, rate_hz, channels = variant
    rng = np.random.default_rng(rate_hz + channels)
    time_n = np.arange(round(0.12 * rate_hz)) / rate_hz
    tone_nc = 0.4 * np.sin(2 * np.pi * 300 * time_n)[:, None] + rng.normal(0, 0.05, (len(time_n), channels))
    waves = [np.clip(tone_nc, -1, 1), np.full_like(tone_nc, 0.5), np.clip(9 * tone_nc, -1, 1)]
    if subtype in ("FLOAT", "DOUBLE"):
        odd_nc = tone_nc.copy()
        odd_nc[:: len(odd_nc) // 10] = rng.choice(ODD_SAMPLES, (len(odd_nc[:: len(odd_nc) // 10]), 1))
        waves.append(odd_nc)
    return waves


def _write_samples(folder: Path, variants: tuple[tuple[str, str, int, int], ...]) -> list[bytes]:
    """Return the bytes of valid files."""
    samples = []
    for variant in variants:
        form, subtype, rate_hz, channels = variant
        for wave_nc in _waves(variant):
            path = folder / "sample"
            soundfile.write(path, wave_nc, rate_hz, format=form, subtype=subtype)
            content = path.read_bytes()
            samples.append(checksums.fix_ogg(content) if form == "OGG" else content)
    return samples


def _wav_samples(folder: Path) -> list[bytes]:
    return _write_samples(folder, WAV_VARIANTS)


def _packed_samples(folder: Path) -> list[bytes]:
    return _write_samples(folder, PACKED_VARIANTS)


def _flac_samples(folder: Path) -> list[bytes]:
    """Return FLAC files, the last one a bomb of silence."""
    samples = _write_samples(folder, FLAC_VARIANTS)
    silence_nc = np.zeros((BOMB_FRAMES, BOMB_CHANNELS), np.int16)
    soundfile.write(folder / "bomb", silence_nc, BOMB_RATE_HZ, format="FLAC", subtype="PCM_16")
    return [*samples, (folder / "bomb").read_bytes()]


def _write_wav(rng: random.Random, samples: list[bytes], folder: Path) -> list[str]:
    """Write a WAV file: bytes changed, fields of its header forged, or lengths that claim gigabytes."""
    content = bytearray(rng.choice(samples))
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            place, width = rng.choice(list(WAV_FIELDS.values()))
            content[place : place + width] = hard_number(rng, width, "little")
        if rng.random() < 0.5 and (data := content.find(b"data")) > 0:
            length = rng.choice((0, 1, 2**32 - 1, 2**32 - 2, 2**31, 0x7FFF0000, len(content), len(content) - data - 9))
            content[data + 4 : data + 8] = struct.pack("<I", length)
        if (ds64 := content.find(b"ds64")) > 0:
            content[ds64 + 16 : ds64 + 24] = hard_number(rng, 8, "little")
    else:
        content = change_bytes(rng, bytes(content), samples, head=64)
    return _place(rng, folder, "speech.wav", bytes(content))


def _write_flac(rng: random.Random, samples: list[bytes], folder: Path) -> list[str]:
    """Write a FLAC file: bytes changed with or without its checksums, or its STREAMINFO forged."""
    content = samples[-1] if rng.random() < 0.02 else rng.choice(samples[:-1])
    match rng.randrange(3):
        case 0:
            content = change_bytes(rng, content, samples[:-1], head=64)
        case 1:
            content = _forge_streaminfo(rng, bytearray(content))
        case _:
            places, changed = checksums.flac_frames(content), bytearray(content)
            for _ in range(rng.randint(1, 6)):
                changed[rng.randrange(places[0] if places else 42, len(changed))] = rng.randrange(256)
            content = checksums.fix_flac(bytes(changed), places)
    return _place(rng, folder, "speech.flac", content)


def _forge_streaminfo(rng: random.Random, content: bytearray) -> bytes:
    """Claim another length, rate, number of channels, depth or block size; the checksum of the sound is dropped."""
    packed = int.from_bytes(content[18:26], "big")
    rate_hz, channels, depth, length = packed >> 44, packed >> 41 & 7, packed >> 36 & 31, packed & (1 << 36) - 1
    if rng.random() < 0.6:
        seconds = rng.choice((0, 60, 36_000, 1e6))
        length = min(rng.choice((int(seconds * rate_hz), 2**36 - 1, length + 1, length - 1, 1)), 2**36 - 1)
    if rng.random() < 0.3:
        rate_hz = rng.choice((0, 1, 999, 1000, 655_350, 384_000, 2**20 - 1, 7919))
    if rng.random() < 0.3:
        channels = rng.randrange(8)
    if rng.random() < 0.2:
        depth = rng.randrange(32)
    content[18:26] = (rate_hz << 44 | channels << 41 | depth << 36 | length).to_bytes(8, "big")
    content[26:42] = bytes(16)
    if rng.random() < 0.2:
        content[8:12] = hard_number(rng, 4, "big")
    return bytes(content)


def _write_packed(rng: random.Random, samples: list[bytes], folder: Path) -> list[str]:
    """Write an Ogg or MP3 file; half of the Ogg files get right checksums after the change."""
    content = rng.choice(samples)
    if content.startswith(b"OggS") and rng.random() < 0.5:

        def change(page: bytearray) -> None:
            if rng.random() < 0.5:
                place = rng.choice((5, rng.randrange(6, 14), 26, rng.randrange(27, len(page))))
                page[place] = rng.randrange(256)

        content = checksums.fix_ogg(content, change)
    else:
        content = change_bytes(rng, content, samples, head=200)
    return _place(rng, folder, rng.choice(("speech.ogg", "speech.mp3", "speech.opus")), content)


def _place(rng: random.Random, folder: Path, name: str, content: bytes) -> list[str]:
    write_changed(rng, folder / name, content)
    return [str(folder / name)]


def read_sound(folder: Path) -> None:
    """Read the one file of a folder as training and transcription do.

    Raises:
        UserError: the first of their refusals.
        AssertionError: sound that is not what the reader promises.
    """
    (path,) = folder.iterdir()
    refusals: list[UserError] = []
    for read in (_check_duration, _check_whole, _check_segments):
        try:
            read(path)
        except UserError as error:
            assert str(path) in str(error), error
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _check_duration(path: Path) -> None:
    assert not audio_duration_s(path, unknown=1.0) <= 0


def _check_whole(path: Path) -> None:
    wave_n = read_audio(path, RATE_HZ, MAX_SECONDS)
    assert wave_n.dtype == np.float32 and wave_n.ndim == 1 and np.isfinite(wave_n).all()
    assert len(wave_n) <= MAX_SECONDS * RATE_HZ + 1


def _check_segments(path: Path) -> None:
    settings = InferenceConfig()
    for segment in split_at_silences(iterate_audio(path, RATE_HZ), RATE_HZ, settings):
        assert np.isfinite(segment.wave).all() and len(segment.wave) <= longest_segment(RATE_HZ, settings)


KINDS = (
    Kind("wav", 16, _wav_samples, _write_wav, read_sound),
    Kind("flac", 12, _flac_samples, _write_flac, read_sound),
    Kind("ogg_mp3", 10, _packed_samples, _write_packed, read_sound),
)
