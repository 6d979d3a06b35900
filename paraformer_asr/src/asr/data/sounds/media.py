"""What FFmpeg decodes (PyAV, the extra `media`): the first stream of sound in M4A, MP4, WebM, AAC, AMR, WMA and others.

A `MediaFile` is read front to back like a `soundfile.SoundFile`. Memory is that of one frame of the codec and of the
block asked for. FFmpeg sees bytes alone: no name, no address, none but the container that the first bytes are of.

Priming. An encoder of MP3, AAC or Opus puts 300 to 2,000 samples of silence before the sound, and fills the last frame
up. MPEG-4 states both in its edit list, Matroska in CodecDelay and DiscardPadding; FFmpeg drops the samples before the
start, and the end is cut here at the length that MPEG-4 states. What states nothing (AAC streams, sound in AVI) keeps
them: its sound comes one or two frames late, 23 to 46 ms at 44.1 kHz, as with the program ffmpeg.

Letters: n samples, c channels.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import soundfile

from asr.data.sounds.header import DEMUXERS, MPEG4

OPTIONS = {
    "protocol_whitelist": "",
    "format_whitelist": "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac,amr,aiff,asf,avi,caf",
}
STATES_STREAM = ("mov", "aiff", "caf")  # readers that know the length of the stream of sound
STATES_FILE = ("matroska", "asf", "avi")  # readers that know the length of the longest stream
EXACT_TIMES = ("matroska", "mov")  # readers that find a place by its time; the others read from the start
RUN_IN_S = 1.0  # decoded before the place looked for: codecs need up to 0.1 s to settle
LENGTH_ERROR_S = 0.25  # how much a stated length may exceed the sound: priming, rounding, a last packet

FIRST_WITH_ANY_TAGS = 19  # version of PyAV that accepts tags that are not UTF-8 by itself
MIN_GAP_S = 0.1  # shortest gap between two frames that counts; their times are rounded

_CLOCK = re.compile(r"(\d{1,6}):(\d{2}):(\d{2}(?:\.\d+)?)")


class MediaError(soundfile.SoundFileError):
    """What FFmpeg cannot read, in words."""


class MediaFile:
    """The first stream of sound of a media file.

    Attributes:
        format: kind of the file, a key of `DEMUXERS`.
        samplerate: in Hz.
        channels: their number.
        frames: samples of a channel by the header; 2⁶² or more if it does not state them.
        gap_s: seconds without sound between the frames that were decoded so far, by their times: packets are lost, or
            the recorder paused. What follows a gap comes too early by its length.
    """

    def __init__(self, file: BinaryIO, kind: str):
        """Open the bytes of a file of this kind; they are closed with it.

        Raises:
            MediaError: no such file, or nothing in it can be decoded.
            ImportError: PyAV is not installed.
        """
        self._file, self._container, self.format = file, None, kind
        try:
            import av

            self._av = av
            self._open()
        except BaseException:
            self.close()
            raise
        self.samplerate, self.channels = self._stream.codec_context.sample_rate, self._stream.codec_context.channels
        stated = self._stated_samples()
        self.frames = 1 << 62 if stated is None else stated
        self._blocks = self._without_padding(self._frames())
        self._waiting, self._num_waiting = [], 0
        self._frame_s, self.gap_s = 0.0, 0.0  # time of the last frame decoded, and the gaps before it

    def read(self, size: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Return float32[n, c], the next `size` samples; fewer at the end of the sound, and at last none."""
        while self._num_waiting < size and (block_nc := next(self._blocks, None)) is not None:
            self._waiting.append(block_nc)
            self._num_waiting += len(block_nc)
        all_nc = np.concatenate([np.zeros((0, self.channels), np.float32), *self._waiting])
        self._waiting, self._num_waiting = [all_nc[size:]], max(self._num_waiting - size, 0)
        return all_nc[:size]

    def seek(self, place: int) -> int:
        """Pass over the samples before `place`, before anything is read; return how many there are."""
        num_passed = self._jump(place - round(RUN_IN_S * self.samplerate))
        while num_passed < place and (n := len(self.read(min(place - num_passed, self.samplerate)))):
            num_passed += n
        return num_passed

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
        self._file.close()

    def __enter__(self) -> "MediaFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> None:
        self._file.seek(0)
        with self._naming_errors("damaged: nothing can be decoded ({})"):
            options = {"options": OPTIONS}
            if int(self._av.__version__.partition(".")[0]) < FIRST_WITH_ANY_TAGS:
                options["metadata_errors"] = "replace"
            self._container = self._av.open(_Bytes(self._file), format=DEMUXERS[self.format], **options)
            self._stream = self._choose_stream()

    def _choose_stream(self) -> Any:
        """Return the first stream of sound."""
        if not self._container.streams.audio:
            others = {stream.type for stream in self._container.streams}
            raise MediaError(f"holds no sound{', only video' if others == {'video'} else ''}")
        stream = self._container.streams.audio[0]
        if stream.codec_context is None:
            raise MediaError("its sound is encrypted, or of a codec that FFmpeg does not know")
        if not stream.codec_context.sample_rate or not stream.codec_context.channels:
            raise MediaError("damaged: nothing can be decoded")
        return stream

    def _stated_samples(self) -> int | None:
        """Return the length by the header; None if it states none, or only that of a video."""
        stream, container, demuxer = self._stream, self._container, DEMUXERS[self.format]
        if demuxer in STATES_STREAM and stream.duration and stream.duration > 0:
            return round(stream.duration * stream.time_base * self.samplerate)
        end_s = 0.0
        if clock := _CLOCK.fullmatch(stream.metadata.get("DURATION", "")):  # of a stream in Matroska
            hours, minutes, seconds = map(float, clock.groups())
            end_s = 60 * (60 * hours + minutes) + seconds
        elif demuxer in STATES_FILE and container.duration and len(container.streams) == 1:
            end_s = container.duration / self._av.time_base
        start_s = float((stream.start_time or 0) * stream.time_base)  # the sound may begin behind the video
        return round((end_s - max(start_s, 0.0)) * self.samplerate) if end_s > start_s else None

    def _jump(self, place: int) -> int:
        """Go to a frame that begins before `place`, if the index of the file leads there; return its first sample."""
        if not self._has_exact_times or place <= 0:
            return 0
        next(self._frames(), None)
        origin_s, frames, block_nc = self._frame_s, self._frames(), None
        ticks = round((origin_s + place / self.samplerate) / self._stream.time_base)
        with contextlib.suppress(MediaError):
            with self._naming_errors("{}"):
                self._container.seek(ticks, stream=self._stream)
            block_nc = next(frames, None)
        start = round((self._frame_s - origin_s) * self.samplerate)
        if block_nc is None or not 0 < start <= place:
            self._container.close()
            self._open()
            start, frames = 0, self._frames()
        else:
            frames = itertools.chain([block_nc], frames)
        self._blocks = self._without_padding(frames, start)
        return start

    def _without_padding(self, frames: Iterator[np.ndarray], start: int = 0) -> Iterator[np.ndarray]:
        """Yield the frames from sample `start` on, the last one cut at the end that the file states."""
        num_samples, last_nc = start, None
        for block_nc in frames:
            if last_nc is not None:
                num_samples += len(last_nc)
                yield last_nc
            last_nc = block_nc
        if last_nc is not None:
            rest = self.frames - num_samples if self.format == MPEG4 else 0
            yield last_nc[:rest] if 0 < rest < len(last_nc) else last_nc

    def _frames(self) -> Iterator[np.ndarray]:
        layout, rate_hz, end_s = self._stream.codec_context.layout, self.samplerate, None
        with self._naming_errors("{}"):
            converter = self._av.AudioResampler(format="flt", layout=layout, rate=rate_hz)  # of the type alone
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise MediaError("a packet is not complete")
                for frame in packet.decode():
                    self._frame_s = 0.0 if frame.time is None else frame.time
                    if end_s is not None and self._frame_s > end_s + MIN_GAP_S and self._has_exact_times:
                        self.gap_s += self._frame_s - end_s
                    end_s = self._frame_s + frame.samples / rate_hz
                    yield from map(self._to_array, converter.resample(frame))
            yield from map(self._to_array, converter.resample(None))

    @property
    def _has_exact_times(self) -> bool:
        return DEMUXERS[self.format] in EXACT_TIMES

    def _to_array(self, frame: Any) -> np.ndarray:
        return frame.to_ndarray().reshape(-1, self.channels)

    @contextlib.contextmanager
    def _naming_errors(self, message: str) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, EOFError, OSError, ValueError) as error:
            raise MediaError(message.format(getattr(error, "strerror", None) or type(error).__name__)) from None


class _Bytes:
    """The bytes of a file without its name, which FFmpeg would take as a hint, and PyAV expects to be a text."""

    def __init__(self, file: BinaryIO):
        self._file, self.read, self.tell = file, file.read, file.tell

    def seek(self, place: int, whence: int) -> int:
        """Return the new place, or -1, FFmpeg's sign of an error: a damaged header may lead anywhere."""
        try:
            return self._file.seek(place, whence)
        except (OSError, ValueError, OverflowError):
            return -1
