"""Splits sound at the silences that a voice activity detector finds, in place of `segmentation.split_at_silences`.

Only the speech is kept. Segments longer than the recogniser takes are cut at their quietest points. With
`join_up_to_s` neighbours are joined first, with the silence between them, and with `keep_silence` all silence is kept:
the recogniser then hears more context. `speech_pieces` has the two rules.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import soxr

from asr.config import InferenceConfig
from asr.inference.segmentation import Segment, cut_to_length, longest_segment
from asr.inference.speech_pieces import JoinedSpeech, MergedSpeech

if TYPE_CHECKING:
    from asr.inference.voice_activity import VoiceActivityDetector


def split_at_speech(
    detector: "VoiceActivityDetector", blocks: Iterable[np.ndarray], rate_hz: int, settings: InferenceConfig
) -> Iterator[Segment]:
    """Yield the pieces of a sound that hold speech, in order, none longer than the recogniser takes.

    Holds one piece and the segment after it, and a block, at a time.

    Args:
        detector: finds the speech; its `settings.join_up_to_s` and `settings.keep_silence` count.
        blocks: float32[n], the sound in pieces of any lengths.
        rate_hz: samples in a second of them.
        settings: of the recogniser: its longest segment, and how silence is told from sound in one that is longer.
    """
    longest_s = longest_segment(rate_hz, settings) / rate_hz
    limit_ms = round(1000 * min(detector.settings.join_up_to_s, longest_s))
    if detector.settings.keep_silence:
        merged = MergedSpeech(limit_ms)
        pieces = _begin_alone(_cut(detector, blocks, rate_hz, merged), merged, rate_hz)
    else:
        pieces = _cut(detector, blocks, rate_hz, JoinedSpeech(limit_ms))
    for piece in pieces:
        yield from cut_to_length(piece, rate_hz, settings)


def _cut(
    detector: "VoiceActivityDetector", blocks: Iterable[np.ndarray], rate_hz: int, rule: JoinedSpeech | MergedSpeech
) -> Iterator[Segment]:
    """Yield the pieces that a rule makes of the speech of a sound."""
    stream, held = detector.stream(), _Held(rate_hz)
    start_ms: int | None = None  # of the segment that is open in the detector
    for samples, final in _with_end(blocks, rate_hz, detector.sample_rate_hz, held):
        for event in stream.accept(samples, final):
            if event.kind == "start":
                start_ms = event.time_ms
                continue
            for span in rule.accept(start_ms, event.time_ms):
                yield held.cut(*span)
            start_ms = None
        earliest_ms = stream.earliest_start_ms if start_ms is None else start_ms
        for span in rule.reach(earliest_ms):
            yield held.cut(*span)
        held.drop_before(rule.needed_from_ms(earliest_ms))
    for span in rule.finish():
        yield held.cut(*span)


def _begin_alone(pieces: Iterator[Segment], merged: MergedSpeech, rate_hz: int) -> Iterator[Segment]:
    """Yield the pieces; if a sound has one segment alone, without the silence before it, as FunASR does."""
    first = next(pieces, None)
    if first is None:
        return
    second = next(pieces, None) if merged.num_segments == 1 else None
    if merged.num_segments == 1:
        silence = merged.first_start_ms * rate_hz // 1000 - first.start
        first = Segment(first.start + silence, first.wave[silence:])
    yield first
    if second is not None:
        yield second
    yield from pieces


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
