"""Splits sound at the silences that a voice activity detector finds, in place of `segmentation.split_at_silences`.

Only the speech is kept. Segments longer than the recogniser takes are cut at their quietest points. With
`join_up_to_s` neighbours are joined first, with the silence between them: the recogniser then hears more context.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import soxr

from asr.config import InferenceConfig
from asr.inference.segmentation import Segment, cut_to_length, longest_segment

if TYPE_CHECKING:
    from asr.inference.voice_activity import VoiceActivityDetector


def split_at_speech(
    detector: "VoiceActivityDetector", blocks: Iterable[np.ndarray], rate_hz: int, settings: InferenceConfig
) -> Iterator[Segment]:
    """Yield the pieces of a sound that hold speech, in order, none longer than the recogniser takes.

    Holds one segment, or one group of joined ones, and a block at a time. Joined ones are not cut again.

    Args:
        detector: finds the speech; its `settings.join_up_to_s` counts.
        blocks: float32[n], the sound in pieces of any lengths.
        rate_hz: samples in a second of them.
        settings: of the recogniser: its longest segment, and how silence is told from sound in one that is longer.
    """
    longest_s = longest_segment(rate_hz, settings) / rate_hz
    join_ms = int(1000 * min(detector.settings.join_up_to_s, longest_s))
    for segment in _join(detector, blocks, rate_hz, join_ms):
        yield from cut_to_length(segment, rate_hz, settings)


def _join(
    detector: "VoiceActivityDetector", blocks: Iterable[np.ndarray], rate_hz: int, join_ms: int
) -> Iterator[Segment]:
    """Yield the speech of a sound; neighbours are one segment while they stay within `join_ms`."""
    stream, held = detector.stream(), _Held(rate_hz)
    start_ms: int | None = None  # of the segment that is open in the detector
    group: tuple[int, int] | None = None  # start and end of what waits for its successor, in ms
    for samples, final in _with_end(blocks, rate_hz, detector.sample_rate_hz, held):
        for event in stream.accept(samples, final):
            if event.kind == "start":
                start_ms = event.time_ms
                continue
            if group and event.time_ms - group[0] <= join_ms:
                group = group[0], event.time_ms
            else:
                if group:
                    yield held.cut(*group)
                group = start_ms, event.time_ms
            start_ms = None
        earliest_ms = stream.earliest_start_ms if start_ms is None else start_ms
        if group and earliest_ms - group[0] > join_ms:  # nothing that follows can be joined to it
            yield held.cut(*group)
            group = None
        held.drop_before(group[0] if group else earliest_ms)
    if group:
        yield held.cut(*group)


def _with_end(
    blocks: Iterable[np.ndarray], rate_hz: int, detector_rate_hz: int, held: "_Held"
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield (samples at the detector's rate, False) of each block, and then the rest with True; `held` gets all."""
    resampled = (
        soxr.ResampleStream(rate_hz, detector_rate_hz, 1, dtype="float32") if rate_hz != detector_rate_hz else None
    )
    for block_n in blocks:
        held.append(block_n)
        yield (resampled.resample_chunk(block_n) if resampled else block_n), False
    nothing = np.zeros(0, np.float32)
    yield (resampled.resample_chunk(nothing, last=True) if resampled else nothing), True


class _Held:
    """The samples of a sound that a segment may still need."""

    def __init__(self, rate_hz: int):
        self._rate_hz, self._first, self._wave_n = rate_hz, 0, np.zeros(0, np.float32)

    def append(self, wave_n: np.ndarray) -> None:
        """Add the samples that follow."""
        self._wave_n = np.concatenate([self._wave_n, wave_n])

    def cut(self, start_ms: int, end_ms: int) -> Segment:
        """Return the segment between two times; the sound may end before the second."""
        start, stop = (self._sample(time_ms) - self._first for time_ms in (start_ms, end_ms))
        return Segment(self._first + start, self._wave_n[start:stop].copy())

    def drop_before(self, time_ms: int) -> None:
        """Forget what lies before a time."""
        drop = min(max(self._sample(time_ms) - self._first, 0), len(self._wave_n))
        self._wave_n, self._first = self._wave_n[drop:], self._first + drop

    def _sample(self, time_ms: int) -> int:
        return time_ms * self._rate_hz // 1000
