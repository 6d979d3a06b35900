"""What `transcribe` accepts as a sound: a path, an open file, bytes, or an array with its rate.

All of them are read by `asr.data.sounds.audio`, so that the same samples give the same text. What is not a file becomes
a temporary one.
"""

import contextlib
import dataclasses
import numbers
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from asr.data.sounds.audio import MAX_SAMPLES, iterate_audio
from asr.data.sounds.opening import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ
from asr.errors import UserError
from asr.untrusted import shown

Sound = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | np.ndarray

SUBTYPES = {"uint8": "PCM_U8", "int16": "PCM_16", "int32": "PCM_32", "float16": "FLOAT", "float32": "FLOAT"}
SUBTYPES |= {"float64": "FLOAT"}
"""Type of an array → how its samples are stored."""


@dataclasses.dataclass(frozen=True)
class SoundInput:
    """A sound that was passed to `transcribe`."""

    label: str  # the path, or what messages call it
    write: Callable[[BinaryIO], None] | None = None  # writes it into a temporary file; None if it is a file by its path

    def blocks(self, sample_rate_hz: int, channel: int) -> Iterator[np.ndarray]:
        """Yield float32[n], its samples as `iterate_audio` does."""
        if self.write is None:
            yield from iterate_audio(Path(self.label), sample_rate_hz, channel=channel)
            return
        with tempfile.NamedTemporaryFile(prefix="asr_") as file, _naming(file.name, self.label):
            self.write(file)
            file.flush()
            yield from iterate_audio(Path(file.name), sample_rate_hz, channel=channel)


def open_sounds(sounds: Sequence[Sound], rate: float | None = None) -> list[SoundInput]:
    """Return the sounds of a list, to be read; `rate` is that of the arrays among them."""
    has_array, inputs = any(map(_is_array, sounds)), []
    for number, sound in enumerate(sounds, 1):
        try:
            inputs.append(open_sound(sound, rate if _is_array(sound) or not has_array else None))
        except UserError as error:
            raise UserError(f"{place_in_list(number, len(sounds))}{error}") from None
    return inputs


def check_channel(channel: int) -> int:
    """Return the number of a channel, from 1, or 0 for their mean; refuse anything else."""
    if isinstance(channel, bool) or not isinstance(channel, numbers.Integral) or not 0 <= channel <= MAX_CHANNELS:
        raise UserError(f"channel: expected 0 to {MAX_CHANNELS}, found {shown(channel)}")
    return int(channel)


def place_in_list(number: int, count: int) -> str:
    """Return the start of a message on one of several sounds; "" for a single one."""
    return f"sound {number} of {count}: " if count > 1 else ""


def open_sound(sound: Sound, rate: float | None = None) -> SoundInput:
    """Return a sound to be read.

    Args:
        sound: a path, an open binary file, the bytes of a file, or an array [samples] or [samples, channels]: uint8,
            int16, int32, or floating-point in −1…1.
        rate: samples in a second of an array.

    Raises:
        UserError: none of these, an array without its rate, or a rate without an array.
    """
    if _is_array(sound):
        return _of_array(_to_numpy(sound), rate)
    is_path, is_bytes = isinstance(sound, str | os.PathLike), isinstance(sound, bytes | bytearray | memoryview)
    if not is_path and not is_bytes and not hasattr(sound, "read"):
        expected = "a path, an open binary file, bytes, or an array with its rate"
        raise UserError(f"sound: expected {expected}; found {type(sound).__name__}")
    if rate is not None:
        raise UserError(f"rate={rate}: only an array needs its rate; a file states its own. Leave rate out")
    if is_path:
        return SoundInput(os.fspath(sound))
    if is_bytes:
        return SoundInput("bytes", lambda file: file.write(sound) and None)
    name = getattr(sound, "name", None)
    label = name if isinstance(name, str) else "file"
    with _reading(label):
        is_text = isinstance(sound.read(0), str)
    if is_text:
        raise UserError(f"{label}: opened as text; open it in binary mode: open(path, 'rb')")
    return SoundInput(label, lambda file: _copy(sound, file, label))


def _copy(source: BinaryIO, file: BinaryIO, label: str) -> None:
    with _reading(label):
        shutil.copyfileobj(source, file)
    if not file.tell():
        raise UserError(f"{label}: nothing is left to read in the open file; file.seek(0) goes back to its start")


@contextlib.contextmanager
def _reading(label: str) -> Iterator[None]:
    """Name a sound whose owner's code raises: a closed file, a connection that is lost, an array on another device."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{label}: cannot be read ({type(error).__name__}: {error})") from error


def _is_array(sound: object) -> bool:
    return hasattr(sound, "__array__")


def _to_numpy(sound: object) -> np.ndarray:
    """Return an array in this machine's byte order; soundfile writes the bytes as they are."""
    with _reading("array"):
        array = np.asarray(sound)
    if array.dtype.name == "bfloat16":  # numpy has no such type: jax's is an extension
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_rate(rate: float) -> None:
    """Refuse what is no number of samples in a second."""
    if not isinstance(rate, numbers.Real) or not MIN_RATE_HZ <= rate <= MAX_RATE_HZ or rate != int(rate):
        expected = f"a whole number of samples in a second, {MIN_RATE_HZ} to {MAX_RATE_HZ}"
        raise UserError(f"rate: expected {expected}, found {shown(rate)}")


def _of_array(array: np.ndarray, rate: float | None) -> SoundInput:
    if rate is None:
        raise UserError("array: expected its rate too, for example transcribe(array, rate=16000)")
    check_rate(rate)
    if array.dtype.name not in SUBTYPES:
        hint = "; the type states the bits of a sample: array.astype(np.int16) if they are 16, np.int32 if 32"
        is_integer = array.dtype.kind in "iu"
        raise UserError(
            f"array: expected int16, int32, uint8, or floats in −1…1, found {array.dtype}{hint if is_integer else ''}"
        )
    if array.ndim not in (1, 2) or array.ndim == 2 and array.shape[1] > array.shape[0]:
        turn = "; transpose it" if array.ndim == 2 else ""
        raise UserError(f"array: expected [samples] or [samples, channels], found the shape {array.shape}{turn}")
    if array.ndim == 2 and array.shape[1] > MAX_CHANNELS:
        raise UserError(f"array: expected at most {MAX_CHANNELS} channels, found {array.shape[1]}")
    if not array.size:
        raise UserError("array: holds no samples")
    if array.size > MAX_SAMPLES:
        raise UserError(f"array: expected at most {MAX_SAMPLES} samples, found {array.size}; cut it")
    subtype = SUBTYPES[array.dtype.name]
    if subtype == "FLOAT":
        array = array.astype(np.float32)
    elif subtype == "PCM_U8":
        array = (array.astype(np.int16) - 128) << 8
    return SoundInput("array", lambda file: soundfile.write(file, array, int(rate), subtype, format="WAV"))


@contextlib.contextmanager
def _naming(path: str, label: str) -> Iterator[None]:
    """Let errors name the sound instead of its temporary file."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(path, label)) from None
    except OSError as error:
        raise UserError(f"{label}: cannot be copied to a temporary file ({error.strerror or error})") from None
