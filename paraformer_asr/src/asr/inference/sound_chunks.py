"""A sound that arrives in pieces, as the chunks that the steps of a streaming model take.

A chunk is `size` stacked frames, and the samples that they are made of, some of them shared with its neighbours. How
the sound was cut into pieces changes no chunk. At the end come what is left, and the frames of the look-ahead.

Letters: n samples.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from asr.config import ChunkLayout, FeaturesConfig
from asr.data.frontend import num_feature_frames
from asr.ops.fbank import frame_samples

SILENCE = 2.0 / 32768
"""Largest sample of digital silence; one step of dither is below it."""


@dataclasses.dataclass(frozen=True)
class ChunkShape:
    """The samples of a chunk.

    Attributes:
        size: stacked frames.
        num_mel_frames: frames before stacking that they are made of.
        num_samples: samples that these are made of.
        before: mel frames that the first stack looks back to.
        hop: samples from one chunk to the next.
        shift: samples from one mel frame to the next.
    """

    size: int
    num_mel_frames: int
    num_samples: int
    before: int
    hop: int
    shift: int


def chunk_shape(features: FeaturesConfig, size: int) -> ChunkShape:
    """Return the samples of a chunk of `size` stacked frames."""
    shift = frame_samples(features.sample_rate_hz, features.frame_shift_ms)
    window = frame_samples(features.sample_rate_hz, features.frame_length_ms)
    num_mel_frames = features.lfr_n * (size - 1) + features.lfr_m
    return ChunkShape(
        size,
        num_mel_frames,
        (num_mel_frames - 1) * shift + window,
        (features.lfr_m - 1) // 2,
        features.lfr_n * size * shift,
        shift,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """What one step takes of one stream.

    Attributes:
        wave_n: float32[n], samples of the chunk, 0 where there are none.
        first_frame, last_frame: the mel frames of them that exist; the stacks repeat these at the ends of a stream.
        num_new: stacked frames.
        is_first, is_last: the stream begins, or ends, with this chunk.
        is_audible: the window of the step holds sound.
    """

    wave_n: np.ndarray
    first_frame: int
    last_frame: int
    num_new: int
    is_first: bool
    is_last: bool
    is_audible: bool


class SoundChunks:
    """Cuts one stream into chunks."""

    def __init__(self, features: FeaturesConfig, layout: ChunkLayout):
        self._features, self._layout = features, layout
        self._shape = chunk_shape(features, layout.size)
        # What the first stack looks back to does not exist; the stack repeats the first frame there.
        self._wave_n = np.zeros(self._shape.before * self._shape.shift, np.float32)
        self._number = 0  # of the next chunk
        self._num_samples = 0
        self._num_silent = layout.window * self._row_samples  # silent samples in a row; nothing was heard before

    def push(self, wave_n: np.ndarray) -> Iterator[Chunk]:
        """Yield the chunks that these samples, float32[n] in −1…1, complete."""
        self._wave_n = np.concatenate([self._wave_n, wave_n])
        self._num_samples += len(wave_n)
        while len(self._wave_n) >= self._needed:
            yield self._cut(self._layout.size, is_last=False)

    def finish(self) -> Iterator[Chunk]:
        """Yield the last chunks; the last of them ends the stream."""
        num_rest = int(num_feature_frames(self._num_samples, self._features)) - self._number * self._layout.size
        # FunASR makes no frame of a rest that is shorter than one.
        is_short = self._num_samples - self._number * self._shape.hop < self._row_samples
        for num_new, is_last in self._layout.final_pieces(0 if is_short and self._is_funasr else num_rest):
            yield self._cut(num_new, is_last=is_last)

    @property
    def _is_funasr(self) -> bool:
        return self._layout.compat != "none"

    @property
    def _needed(self) -> int:
        """Samples that the next chunk waits for."""
        shape = self._shape
        return shape.before * shape.shift + shape.hop if self._is_funasr else shape.num_samples

    @property
    def _row_samples(self) -> int:
        return self._shape.hop // self._shape.size

    def _cut(self, num_new: int, *, is_last: bool) -> Chunk:
        shape, first = self._shape, self._number == 0
        wave_n = np.zeros(shape.num_samples, np.float32)
        samples_n = self._wave_n[: shape.num_samples]
        wave_n[: len(samples_n)] = samples_n
        num_mel_frames = max((len(samples_n) - self._window) // shape.shift + 1, 1)
        chunk = Chunk(
            wave_n,
            first_frame=shape.before if first else 0,
            last_frame=min(num_mel_frames, shape.num_mel_frames) - 1,
            num_new=num_new,
            is_first=first,
            is_last=is_last,
            is_audible=self._hear(samples_n[: shape.hop]),
        )
        self._wave_n, self._number = self._wave_n[shape.hop :], self._number + 1
        return chunk

    @property
    def _window(self) -> int:
        return self._shape.num_samples - (self._shape.num_mel_frames - 1) * self._shape.shift

    def _hear(self, samples_n: np.ndarray) -> bool:
        """Return whether there is sound among these samples, or among those of the window before them."""
        loud_n = np.flatnonzero(np.abs(samples_n) > SILENCE)
        self._num_silent = self._num_silent + len(samples_n) if not len(loud_n) else len(samples_n) - 1 - loud_n[-1]
        return self._num_silent < self._layout.window * self._row_samples
