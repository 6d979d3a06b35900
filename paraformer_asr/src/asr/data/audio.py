"""Reads sound files: decoded in blocks, bounded, resampled, one channel; every failure names the file.

A sample is float32 with full scale −1…1, whatever the file holds: 8-bit samples are (x − 128) / 128, 16-bit x / 2¹⁵,
24-bit x / 2²³, 32-bit x / 2³¹; floating-point samples are taken as they are, even above full scale. Channels are
averaged. A constant offset is kept, and removed frame by frame in the filterbank. After resampling, the peaks of a
clipped sound may lie a little above 1.

Letters: n samples.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.data.sound_header import describe_file, find_cut
from asr.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
"""What is read, whatever the suffix says. The decoder knows many more formats, some of them rarely tested."""

MIN_RATE_HZ, MAX_RATE_HZ, MAX_CHANNELS = 1000, 384_000, 64
BLOCK_SAMPLES = 1 << 16
"""Samples, all channels counted, decoded at once; no header makes us allocate more."""

MAX_SAMPLES_PER_SECOND = 3_072_000
"""All channels counted: 64 at 48 kHz, or 8 at 384 kHz. A second of sound costs no more than that."""

MAX_SAMPLES = 1 << 30
"""Decoded for one array, all channels counted, and as many in the array: an hour of six channels at 48 kHz. Silence is
packed a thousandfold, so that neither the size of a file nor its seconds bound the work."""

MAX_SAMPLES_PER_BYTE = 8192
"""No format packs a channel closer: a FLAC frame of up to 65,535 equal samples takes at least 11 bytes."""

MAX_PEAK = 1e6
"""Floating-point samples beyond it would overflow in the filterbank; full scale is 1, and 32,768 by mistake."""

MP3_FRAME = 1152
"""Samples by which the length in the header of an MP3 file may be wrong."""

DEFAULT_MAX_SECONDS = 3600.0


def read_audio(path: Path, sample_rate_hz: int, max_seconds: float = DEFAULT_MAX_SECONDS) -> np.ndarray:
    """Return float32[n], the sound of a file as one channel at `sample_rate_hz`, full scale −1…1.

    Raises:
        UserError: naming the file: missing, a folder, not readable, no sound, without samples, longer than
            `max_seconds` or `MAX_SAMPLES`, damaged, cut off, its header forged, or samples that are NaN, infinite or
            above 10⁶.
    """
    with _open(Path(path)) as sound:
        num_samples = _claimed_samples(sound) or 0
        if num_samples > max_seconds * sound.samplerate:
            duration_s = num_samples / sound.samplerate
            raise UserError(f"{path}: {duration_s:.1f} s by its header, more than the {max_seconds:g} s allowed")
        _check_work(path, sound, num_samples, sample_rate_hz)
    blocks = list(_resampled(Path(path), sample_rate_hz, max_seconds))
    return np.concatenate(blocks)


def iterate_audio(path: Path, sample_rate_hz: int, block_seconds: float = 30.0) -> Iterator[np.ndarray]:
    """Yield the sound of a file of any length, block by block; put together they are what `read_audio` returns.

    Memory is that of one block. A damaged file is noticed where the damage is, after the blocks before it.

    Args:
        path: a sound file.
        sample_rate_hz: rate of the result.
        block_seconds: length of each block but the last, which may be shorter.

    Yields:
        float32[n], one channel, full scale −1…1.

    Raises:
        UserError: as `read_audio`, at the first block or a later one.
    """
    block_samples = max(round(block_seconds * sample_rate_hz), 1)
    waiting, num_waiting = [], 0
    for wave_n in _resampled(Path(path), sample_rate_hz, None):
        waiting.append(wave_n)
        num_waiting += len(wave_n)
        if num_waiting >= block_samples:
            wave_n = np.concatenate(waiting)
            full = num_waiting - num_waiting % block_samples
            yield from np.split(wave_n[:full], full // block_samples)
            waiting, num_waiting = [wave_n[full:]], num_waiting - full
    if num_waiting:
        yield np.concatenate(waiting)


def audio_duration_s(path: Path, unknown: float = float("nan")) -> float:
    """Return the length of a file in seconds by its header, nothing being decoded.

    Args:
        path: a sound file.
        unknown: returned where the header does not say it (a FLAC file that was written into a pipe).

    Raises:
        UserError: naming a file that is missing, no sound, without samples, cut off (WAV and Ogg), or whose header
            claims more than the file can hold.
    """
    with _open(Path(path)) as sound:
        num_samples = _claimed_samples(sound)
        return unknown if num_samples is None else num_samples / sound.samplerate


def change_speed(wave_n: np.ndarray, speed: float, sample_rate_hz: int) -> np.ndarray:
    """Return the sound played at `speed` times its speed; pitch and tempo change together.

    Args:
        wave_n: float32[n], one channel.
        speed: above 1 is faster and shorter; 1 returns the wave itself.
        sample_rate_hz: samples in one second, before and after.

    Returns:
        float32[changed_length(n, speed)].

    Reference: Ko et al. 2015, Audio augmentation for speech recognition, Interspeech, section 2.
    """
    if speed == 1.0:
        return wave_n
    # At exactly a half soxr rounds up, and round() to the even number.
    return soxr.resample(wave_n, sample_rate_hz * speed, sample_rate_hz)[: changed_length(len(wave_n), speed)]


def changed_length(num_samples: int, speed: float) -> int:
    """Return the number of samples that `change_speed` makes of `num_samples`: num_samples / speed, rounded."""
    return num_samples if speed == 1.0 else round(num_samples / speed)


class _Sequential(soundfile.SoundFile):
    """A sound file that is read from front to back only: seeking after each read fails where a header is wrong."""

    def seekable(self) -> bool:
        return False


def _open(path: Path) -> _Sequential:
    """Return an opened sound file whose header has been checked."""
    try:
        if path.is_dir():
            raise UserError(f"{path}: a folder, expected a sound file")
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: expected a sound file, found a pipe or a device")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        sound = _Sequential(os.fspath(path))
    except (soundfile.SoundFileError, TypeError):  # TypeError: a suffix of headerless sound, as .raw
        what = find_cut(path) or describe_file(path)
        raise UserError(f"{path}: {what}; expected a sound file (WAV, FLAC, OGG, MP3)") from None
    try:
        _check_header(path, sound)
    except UserError:
        sound.close()
        raise
    return sound


def _check_header(path: Path, sound: soundfile.SoundFile) -> None:
    """Refuse what is not to be decoded."""
    if sound.format not in FORMATS:
        raise UserError(f"{path}: sound of the kind {sound.format}; expected WAV, FLAC, OGG or MP3")
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
    num_samples, num_bytes = _claimed_samples(sound), path.stat().st_size
    if num_samples == 0:
        raise UserError(f"{path}: holds no samples")
    if num_samples is not None and num_samples > MAX_SAMPLES_PER_BYTE * num_bytes:
        raise UserError(f"{path}: its header says {num_samples} samples, which {num_bytes} bytes cannot hold")


def _check_work(path: Path, sound: soundfile.SoundFile, num_samples: int, sample_rate_hz: int) -> None:
    """Refuse so many samples of a channel if decoding them, or the array that they become, is beyond `MAX_SAMPLES`."""
    if num_samples * max(sound.channels, sample_rate_hz / sound.samplerate) > MAX_SAMPLES:
        raise UserError(
            f"{path}: {num_samples / sound.samplerate:.0f} s and more of {sound.channels} channels at "
            f"{sound.samplerate} Hz are too many samples for one array, {MAX_SAMPLES} are allowed; cut the file"
        )


def _claimed_samples(sound: soundfile.SoundFile) -> int | None:
    """Return the samples of a channel by the header; None where the writer did not know their number."""
    return sound.frames if sound.frames < 1 << 62 else None


def _decoded(
    path: Path, sound: soundfile.SoundFile, sample_rate_hz: int, max_seconds: float | None
) -> Iterator[np.ndarray]:
    """Yield the checked, averaged channels of an opened file in blocks; at the end compare with the header."""
    num_decoded, claimed = 0, _claimed_samples(sound)
    while True:
        try:
            block_nc = sound.read(BLOCK_SAMPLES // sound.channels, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            place_s, reason = num_decoded / sound.samplerate, str(error).strip(" .")
            raise UserError(f"{path}: damaged or cut off somewhere behind {place_s:.2f} s ({reason})") from None
        if not len(block_nc):
            break
        _check_samples(path, block_nc, num_decoded / sound.samplerate, sound.samplerate)
        num_decoded += len(block_nc)
        if max_seconds is not None:
            if num_decoded > max_seconds * sound.samplerate:
                raise UserError(f"{path}: longer than the {max_seconds:g} s allowed")
            _check_work(path, sound, num_decoded, sample_rate_hz)
        yield block_nc.mean(axis=1)
    if num_decoded == 0:
        raise UserError(f"{path}: holds no samples")
    if claimed is not None and num_decoded < claimed - (MP3_FRAME if sound.format == "MP3" else 0):
        raise UserError(
            f"{path}: cut off, or its header is wrong: it says {claimed / sound.samplerate:.2f} s "
            f"({claimed} samples), {num_decoded / sound.samplerate:.2f} s ({num_decoded}) are there"
        )


def _check_samples(path: Path, block_nc: np.ndarray, start_s: float, rate_hz: int) -> None:
    """Refuse samples that would make every later number NaN."""
    bad_n = ~(np.abs(block_nc) <= MAX_PEAK).all(axis=1)
    if bad_n.any():
        place = int(bad_n.argmax())
        value = next(v for v in block_nc[place] if not abs(v) <= MAX_PEAK)
        raise UserError(f"{path}: expected samples in −1…1, found {value:g} at {start_s + place / rate_hz:.3f} s")


def _resampled(path: Path, sample_rate_hz: int, max_seconds: float | None) -> Iterator[np.ndarray]:
    """Yield blocks of any length, some of them empty, at `sample_rate_hz`."""
    with _open(path) as sound:
        blocks = _decoded(path, sound, sample_rate_hz, max_seconds)
        if sound.samplerate == sample_rate_hz:
            yield from blocks
            return
        stream = soxr.ResampleStream(sound.samplerate, sample_rate_hz, 1, dtype="float32")
        for block_n in blocks:
            yield stream.resample_chunk(block_n)
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
