"""Reads sound files: decoded in blocks, bounded, resampled, one channel; every failure names the file.

A sample is float32 with full scale −1…1: 8-bit samples become (x − 128) / 128, 16-bit x / 2¹⁵, 24-bit x / 2²³,
32-bit x / 2³¹; floating-point samples stay as they are, even above full scale. Channels are averaged, or one is chosen
(`asr.data.sounds.channels`). A constant offset is kept; the filterbank removes it frame by frame. Resampling may lift
the peaks of a clipped sound a little above 1.

Letters: n samples.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.data.sounds.channels import Mixing, warn_of_cancelling
from asr.data.sounds.media import MediaFile
from asr.data.sounds.opening import claimed_samples, length_error, open_checked
from asr.errors import UserError

log = logging.getLogger("asr")

BLOCK_SAMPLES = 1 << 16  # samples decoded at once, over all channels, whatever the header claims
MAX_SAMPLES = 1 << 30
"""Most samples decoded for one array, over all channels, and in the array: an hour of six channels at 48 kHz. Silence
compresses a thousandfold, so neither the size of a file nor its seconds bound the work."""

MAX_PEAK = 64.0
"""Largest magnitude accepted of a floating-point sample. A mix may exceed full scale, which is 1, but not by 36 dB."""

DEFAULT_MAX_SECONDS = 3600.0
END_TOLERANCE_S = 0.05  # most seconds that a part may be stated to end after the end of its file


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of a sound file."""

    start_s: float = 0.0  # where it begins
    duration_s: float | None = None  # its length; None: to the end of the file


WHOLE = Span()


def read_audio(
    path: Path,
    sample_rate_hz: int,
    max_seconds: float = DEFAULT_MAX_SECONDS,
    channel: int = 0,
    span: Span = WHOLE,
) -> np.ndarray:
    """Return float32[n], the sound of a file as one channel at `sample_rate_hz`, full scale −1…1.

    Of a `span`, only that part. More than `max_seconds` are refused. `channel` counts from 1; 0 is the mean of all
    channels, or with a warning the loudest one if they cancel each other.

    Raises:
        UserError: naming a file that is not a sound, is empty, damaged, cut off or longer than `max_seconds` or
            `MAX_SAMPLES`, has a forged header, or samples above `MAX_PEAK`, infinite or NaN.
    """
    with open_checked(Path(path)) as sound:
        num_samples = _claimed_in(sound, span)
        if num_samples > max_seconds * sound.samplerate:
            duration_s = num_samples / sound.samplerate
            raise UserError(f"{path}: {duration_s:.1f} s by its header, more than the {max_seconds:g} s allowed")
        _check_work(path, sound, num_samples, sample_rate_hz)
    mixing = Mixing(channel)
    blocks = list(_resampled(Path(path), sample_rate_hz, max_seconds, mixing, span))
    if mixing.cancels:
        warn_of_cancelling(Path(path), mixing.loudest)
        blocks = list(_resampled(Path(path), sample_rate_hz, max_seconds, Mixing(mixing.loudest), span))
    return np.concatenate(blocks)


def iterate_audio(
    path: Path, sample_rate_hz: int, block_seconds: float = 30.0, channel: int = 0, span: Span = WHOLE
) -> Iterator[np.ndarray]:
    """Yield float32[n], the sound of a file of any length in blocks that make up what `read_audio` returns.

    Memory is that of one block; only the last may be shorter than `block_seconds`. Damage raises an error where it is,
    after the blocks before it. Several channels are decoded twice, the first time to see whether they cancel each
    other.

    Raises:
        UserError: as `read_audio`, at the first block or a later one; or a span beyond the end of the file.
    """
    mixing = _choose_mixing(Path(path), channel, span)
    block_samples = max(round(block_seconds * sample_rate_hz), 1)
    waiting, num_waiting = [], 0
    for wave_n in _resampled(Path(path), sample_rate_hz, None, mixing, span):
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
    """Return the length of a file in seconds by its header; nothing is decoded.

    `unknown` is returned if the header does not state the length (a FLAC file that was written into a pipe).

    Raises:
        UserError: naming a file that is not a sound, is empty, is cut off, or claims more than it holds.
    """
    with open_checked(Path(path)) as sound:
        num_samples = claimed_samples(sound)
        return unknown if num_samples is None else num_samples / sound.samplerate


def count_channels(path: Path) -> int:
    """Return the number of channels of a file by its header.

    Raises:
        UserError: as `audio_duration_s`.
    """
    with open_checked(Path(path)) as sound:
        return sound.channels


def change_speed(wave_n: np.ndarray, speed: float, sample_rate_hz: int) -> np.ndarray:
    """Return float32[changed_length(n, speed)], the sound of float32[n] played at `speed` times its speed.

    Pitch and tempo change together: above 1 is faster and shorter. Speed 1 returns the wave itself.

    Reference: Ko et al. 2015, Audio augmentation for speech recognition, Interspeech, section 2.
    """
    if speed == 1.0:
        return wave_n
    # soxr rounds a length of exactly x.5 up, round() to the even number.
    return soxr.resample(wave_n, sample_rate_hz * speed, sample_rate_hz)[: changed_length(len(wave_n), speed)]


def changed_length(num_samples: int, speed: float) -> int:
    """Return the length that `change_speed` returns for `num_samples`: num_samples / speed, rounded."""
    return num_samples if speed == 1.0 else round(num_samples / speed)


def _check_work(path: Path, sound: soundfile.SoundFile, num_samples: int, sample_rate_hz: int) -> None:
    """Refuse samples of a channel that exceed `MAX_SAMPLES`, decoded over all channels or resampled into one."""
    if num_samples * max(sound.channels, sample_rate_hz / sound.samplerate) > MAX_SAMPLES:
        raise UserError(
            f"{path}: {num_samples / sound.samplerate:.0f} s and more of {sound.channels} channels at "
            f"{sound.samplerate} Hz are too many samples for one array, {MAX_SAMPLES} are allowed; cut the file"
        )


def _claimed_in(sound: soundfile.SoundFile, span: Span) -> int:
    """Return the samples of a span of a channel by the header; 0 if they are not known."""
    claimed = claimed_samples(sound)
    rest = math.inf if claimed is None else max(claimed - round(span.start_s * sound.samplerate), 0)
    wanted = math.inf if span.duration_s is None else round(span.duration_s * sound.samplerate)
    return int(min(rest, wanted)) if min(rest, wanted) < math.inf else 0


def _decoded(
    path: Path, sound: soundfile.SoundFile, sample_rate_hz: int, max_seconds: float | None, span: Span
) -> Iterator[np.ndarray]:
    """Yield float32[n, c], the checked blocks of an opened file; at its end compare their length with the header."""
    start, claimed = _seek(path, sound, span.start_s), claimed_samples(sound)
    num_decoded = start
    stop = math.inf if span.duration_s is None else num_decoded + round(span.duration_s * sound.samplerate)
    while num_decoded < stop:
        try:
            size = int(min(BLOCK_SAMPLES // sound.channels, stop - num_decoded))
            block_nc = sound.read(size, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            place_s, reason = num_decoded / sound.samplerate, str(error).strip(" .")
            raise UserError(f"{path}: damaged or cut off somewhere after {place_s:.2f} s ({reason})") from None
        if not len(block_nc):
            break
        _check_samples(path, block_nc, num_decoded / sound.samplerate, sound.samplerate)
        num_decoded += len(block_nc)
        if max_seconds is not None:
            if num_decoded - start > max_seconds * sound.samplerate:
                raise UserError(f"{path}: longer than the {max_seconds:g} s allowed")
            _check_work(path, sound, num_decoded - start, sample_rate_hz)
        yield block_nc
    if isinstance(sound, MediaFile) and sound.gap_s:
        warn_of_gaps(path, sound.gap_s)
    if num_decoded == 0:
        raise UserError(f"{path}: holds no samples")
    if num_decoded + END_TOLERANCE_S * sound.samplerate < stop < math.inf:
        raise _beyond(path, (stop - 1) / sound.samplerate, num_decoded / sound.samplerate)
    if stop == math.inf and claimed is not None and num_decoded < claimed - length_error(sound):
        raise UserError(
            f"{path}: cut off, or its header is wrong: it says {claimed / sound.samplerate:.2f} s "
            f"({claimed} samples), {num_decoded / sound.samplerate:.2f} s ({num_decoded}) are there"
        )


@functools.lru_cache(maxsize=1024)
def warn_of_gaps(path: Path, gap_s: float) -> None:
    """Warn, once for each file, that sound is missing in its middle."""
    log.warning(
        "%s: %.1f s of sound are missing in the middle: lost packets, or a pause; later times are early", path, gap_s
    )


def _seek(path: Path, sound: soundfile.SoundFile, start_s: float) -> int:
    start, claimed = round(start_s * sound.samplerate), claimed_samples(sound)
    if not start:
        return 0
    if claimed is not None and start >= claimed:
        raise _beyond(path, start_s, claimed / sound.samplerate)
    try:
        place = sound.seek(start)
    except soundfile.SoundFileError as error:
        raise UserError(f"{path}: cannot be read from {start_s:g} s on ({str(error).strip(' .')})") from None
    if place < start:
        raise _beyond(path, start_s, place / sound.samplerate)
    return place


def _beyond(path: Path, place_s: float, end_s: float) -> UserError:
    return UserError(f"{path}: expected sound at {place_s:.2f} s, found its end at {end_s:.2f} s")


def _check_samples(path: Path, block_nc: np.ndarray, start_s: float, rate_hz: int) -> None:
    """Refuse samples that are not finite, or on a different scale than −1…1."""
    bad_n = ~(np.abs(block_nc) <= MAX_PEAK).all(axis=1)
    if bad_n.any():
        place = int(bad_n.argmax())
        value = next(v for v in block_nc[place] if not abs(v) <= MAX_PEAK)
        remedy = "; if they are 16-bit numbers written as floats, divide them by 32768" if abs(value) <= 32768 else ""
        time_s = start_s + place / rate_hz
        raise UserError(f"{path}: expected samples in −1…1, found {value:g} at {time_s:.3f} s{remedy}")


def _choose_mixing(path: Path, channel: int, span: Span) -> Mixing:
    """Return how the channels of a file become one; errors of the file are left to its reader."""
    mixing = Mixing(channel)
    try:
        with open_checked(path) as sound:
            if channel or sound.channels == 1:
                return mixing
            for block_nc in _decoded(path, sound, sound.samplerate, None, span):
                mixing(block_nc)
    except UserError:
        pass
    if not mixing.cancels:
        return Mixing(channel)
    warn_of_cancelling(path, mixing.loudest)
    return Mixing(mixing.loudest)


def _resampled(
    path: Path, sample_rate_hz: int, max_seconds: float | None, mixing: Mixing, span: Span = WHOLE
) -> Iterator[np.ndarray]:
    """Yield blocks of any length, some of them empty, of one channel at `sample_rate_hz`."""
    with open_checked(path) as sound:
        if 1 < sound.channels < mixing.channel:
            raise UserError(f"{path}: data.channel is {mixing.channel}, expected 1 to {sound.channels}, its channels")
        blocks = map(mixing, _decoded(path, sound, sample_rate_hz, max_seconds, span))
        if sound.samplerate == sample_rate_hz:
            yield from blocks
            return
        stream = soxr.ResampleStream(sound.samplerate, sample_rate_hz, 1, dtype="float32")
        for block_n in blocks:
            yield stream.resample_chunk(block_n)
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
