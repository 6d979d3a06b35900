"""A process that decodes uploads, so that no hostile file reaches the process that owns the device.

`python -m asr.serve.decode_worker SETTINGS` reads uploads from its standard input and answers on its standard output:
first that it is ready, then for each upload a line of JSON and the samples of the segments, float32. It ends with its
input. Nothing that needs jax is imported.

WAV, FLAC, Ogg and MP3 are read as `asr infer` reads them, so that the text is the same; other kinds by FFmpeg (PyAV).
The first bytes decide, never a name or a content type.
"""

import contextlib
import io
import itertools
import json
import logging
import os
import resource
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from asr.config import InferenceConfig
from asr.data.codec_noise import codecs_silenced
from asr.data.sounds.audio import iterate_audio
from asr.data.sounds.channels import Mixing, warn_of_cancelling
from asr.data.sounds.header import READABLE, sound_kind
from asr.errors import UserError
from asr.inference.segmentation import Segment, split_at_silences
from asr.inference.transcription import Heard
from asr.serve.priority import NICENESS

DEMUXERS = {
    "Matroska (as .webm and .mkv)": "matroska",
    "MPEG-4 (as .m4a and .mp4)": "mov",
    "AAC": "aac",
    "AMR": "amr",
    "AIFF": "aiff",
}
"""Kinds of sound that FFmpeg reads, and its reader of each."""

NAME = "the file"
"""What messages call an upload."""


class Refusal(Exception):
    """An upload that is not decoded.

    Attributes:
        kind: `not_sound`, `broken` or `too_long`.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def main() -> None:
    """Answer requests until the input ends."""
    os.nice(NICENESS)
    settings = json.loads(sys.argv[1])
    _limit_memory(settings["decode_memory_bytes"])
    decoder = UploadDecoder(settings)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(b"ready\n")
    sink.flush()
    while line := source.readline():
        content = source.read(json.loads(line)["num_bytes"])
        _limit_processor_time(settings["decode_timeout_s"])
        header, waves = decoder.answer(content)
        sink.write(json.dumps(header).encode() + b"\n")
        for wave_n in waves:
            sink.write(wave_n.tobytes())
        sink.flush()


class UploadDecoder:
    """Decodes uploads and cuts them at their silences."""

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self.rate_hz, self.channel = settings["sample_rate_hz"], settings["channel"]
        self.inference = InferenceConfig(**settings["inference"])
        self._warnings: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self._warnings.append(record.getMessage())
        logging.getLogger("asr").addHandler(handler)

    def answer(self, content: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return the header and the segments, float32[n] each; or an error and no segment."""
        self._warnings.clear()
        warn_of_cancelling.cache_clear()
        try:
            heard = Heard(self._blocks(content), self.rate_hz)
            segments = []
            for segment in self._split(heard):
                heard.add(segment.wave)
                segments.append(segment)
        except Refusal as refusal:
            return {"error": refusal.kind, "message": str(refusal)}, []
        except UserError as error:
            return {"error": "broken", "message": str(error)}, []
        except MemoryError:
            return {"error": "broken", "message": f"{NAME} needs more memory than it may take"}, []
        header = {
            "starts": [segment.start for segment in segments],
            "lengths": [len(segment.wave) for segment in segments],
            "num_samples": heard.num_samples,
            "why_empty": heard.why_empty() if heard.num_samples else "no speech: the sound is empty",
            "warning": "; ".join(self._warnings),
        }
        return header, [segment.wave for segment in segments]

    def _split(self, heard: Heard) -> Iterable[Segment]:
        """Return the segments of a sound: one, with `whole`, which the caller cuts."""
        if self.settings["whole"]:
            return [Segment(0, np.concatenate([np.zeros(0, np.float32), *heard]))]
        return split_at_silences(heard, self.rate_hz, self.inference)

    def _blocks(self, content: bytes) -> Iterator[np.ndarray]:
        """Yield float32[n], the samples of one channel at the model's rate, until there are too many."""
        kind, num_samples = sound_kind(content[:64]), 0
        if kind in READABLE:
            blocks = self._read(content)
        elif kind in DEMUXERS:
            blocks = self._decode(content, DEMUXERS[kind])
        else:
            what = f"sound of the kind {kind}" if kind else "not a sound file"
            raise Refusal("not_sound", f"{NAME} is {what}; send WAV, FLAC, Ogg, MP3, WebM, MP4, AAC, AMR or AIFF")
        for block_n in blocks:
            num_samples += len(block_n)
            self._check_length(num_samples / self.rate_hz)
            yield block_n

    def _read(self, content: bytes) -> Iterator[np.ndarray]:
        """Yield blocks of what libsndfile reads, by the rules of `asr infer`."""
        with _as_file(content) as path:
            try:
                with codecs_silenced(), soundfile.SoundFile(path) as sound:
                    self._check_stream(sound.samplerate, sound.channels)
                    self._check_length(sound.frames / sound.samplerate if sound.frames < 1 << 62 else 0.0)
            except soundfile.SoundFileError:
                pass  # the reader below finds out why
            try:
                yield from iterate_audio(Path(path), self.rate_hz, channel=self.channel)
            except UserError as error:
                raise UserError(str(error).partition("; convert it")[0].replace(path, NAME)) from None
        self._warnings[:] = [warning.replace(path, NAME) for warning in self._warnings]

    def _decode(self, content: bytes, demuxer: str) -> Iterator[np.ndarray]:
        """Yield blocks of what FFmpeg reads."""
        mixing = Mixing(self.channel)
        blocks = list(self._resampled(content, demuxer, mixing))
        if mixing.cancels:
            warn_of_cancelling(Path(NAME), mixing.loudest)
            blocks = self._resampled(content, demuxer, Mixing(mixing.loudest))
        yield from blocks

    def _resampled(self, content: bytes, demuxer: str, mixing: Mixing) -> Iterator[np.ndarray]:
        stream, rate_hz, num_samples = None, 0, 0
        for block_nc, rate_hz in self._frames(content, demuxer):
            num_samples += len(block_nc)
            self._check_length(num_samples / rate_hz)
            block_n = np.ascontiguousarray(mixing(block_nc))
            if rate_hz != self.rate_hz:
                stream = stream or soxr.ResampleStream(rate_hz, self.rate_hz, 1, dtype="float32")
                block_n = stream.resample_chunk(block_n)
            yield block_n
        if stream:
            yield stream.resample_chunk(np.zeros(0, np.float32), last=True)

    def _frames(self, content: bytes, demuxer: str) -> Iterator[tuple[np.ndarray, int]]:
        """Yield (float32[n, c], rate) of the first stream of sound; a damaged end is left out, with a warning."""
        import av

        av.logging.set_level(None)
        options = {"protocol_whitelist": "", "format_whitelist": "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac,amr,aiff"}
        num_frames = 0
        try:
            # BytesIO has no name that FFmpeg could take as a hint.
            with av.open(io.BytesIO(content), format=demuxer, options=options) as container:
                if not container.streams.audio:
                    raise Refusal("broken", f"{NAME} holds no sound")
                stream = container.streams.audio[0]
                rate_hz, num_channels = stream.codec_context.sample_rate, stream.codec_context.channels
                self._check_stream(rate_hz, num_channels)
                resampler = av.AudioResampler(format="flt", layout=stream.codec_context.layout, rate=rate_hz)
                for frame in itertools.chain(container.decode(stream), [None]):  # None: what the resampler holds
                    for part in resampler.resample(frame):
                        num_frames += 1
                        yield part.to_ndarray().reshape(-1, num_channels), rate_hz
        except (av.FFmpegError, EOFError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            if not num_frames:
                raise Refusal("broken", f"{NAME} is damaged: nothing can be decoded ({reason})") from None
            self._warnings.append(f"{NAME} is damaged or cut off; what follows the damage is missing ({reason})")
        if not num_frames:
            raise Refusal("broken", f"{NAME} holds no samples")

    def _check_stream(self, rate_hz: int, num_channels: int) -> None:
        low_hz, high_hz, most = (self.settings[name] for name in ("min_rate_hz", "max_rate_hz", "max_channels"))
        if not low_hz <= rate_hz <= high_hz or not 1 <= num_channels <= most:
            expected = f"{low_hz} to {high_hz} Hz and 1 to {most} channels"
            raise Refusal("broken", f"{NAME}: expected {expected}, found {rate_hz} Hz and {num_channels}")

    def _check_length(self, sound_s: float) -> None:
        if sound_s > self.settings["max_sound_s"]:
            raise Refusal("too_long", f"{NAME} is longer than the {self.settings['max_sound_s']:g} s allowed")


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield a path of the content: in memory where the system can (Linux), otherwise a temporary file."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("sound"), "wb") as file:
            _write(file, content)
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.NamedTemporaryFile(prefix="asr_") as file:
        _write(file, content)
        yield file.name


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()


def _limit_memory(num_bytes: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # the system allows less
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would put the sound on the disk


def _limit_processor_time(seconds: float) -> None:
    """End the process (SIGXCPU) if it computes for so long from now on."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


if __name__ == "__main__":
    main()
