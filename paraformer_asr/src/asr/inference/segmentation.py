"""Splits sound of any length into segments at its silences: no model, any length, bounded memory.

The level of a 10 ms frame is its variance in dB of full scale (a constant offset counts as nothing). A frame is sound
if its level is above

    max( loud_db − silence_db ,  FLOOR_DB )

where `loud_db` is the level of the loudest frames within 30 s before and after. Each second counts with its third
loudest frame, so that a click of 20 ms does not silence the speech around it. Then

- silence of at least a second (or `min_silence_s`, if that is longer) ends a segment and is left out;
- silence of at least `min_silence_s` also ends a segment if, with the sound up to the next such silence, it would be
  longer than the median training utterance: a model trained on single utterances loses words when a segment has two.
  This rule is off if the lengths are unknown or `max_segment_s` is set;
- longer sound without such a silence is cut before the limit, `max_segment_s` or the 95 % quantile of the training
  utterances: in the middle of the longest silence of at least `min_silence_s`, otherwise at the quietest point, which
  may split a word;
- a segment has 0.2 s of context on either side, if the sound has that much.

No frame of sound is left out, and no two segments overlap. Levels alone have limits: steady noise counts as sound once
the last speech is 30 s away, so does music, and speech more than `silence_db` below other speech within 30 s, or below
−70 dB of full scale, counts as silence.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from asr.config import InferenceConfig
from asr.data.sounds.levels import check_rank, frame_levels, is_sound, loudness

FRAMES_PER_SECOND = 100
SURROUNDINGS_S = 30
UNTRAINED_SEGMENT_S = 20.0  # longest segment if the lengths of the training utterances are unknown
SHORTEST_LIMIT_S, LONGEST_LIMIT_S = 1.0, 120.0
"""Limits of the longest segment, as in the config, however the model was trained."""
LONG_SILENCE_S = 1.0
PADDING_S = 0.2
SMOOTHED_FRAMES = 11
NEAR_LIMIT = 3
"""Sound that is too long is cut within the last third of the longest segment; at least a third is left."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of sound that may hold speech."""

    start: int  # its first sample in the whole sound
    wave: np.ndarray  # float32[n]


@dataclasses.dataclass(frozen=True)
class _Limits:
    """The settings in frames."""

    longest: int
    joined: int
    min_silence: int
    long_silence: int
    padding: int = round(PADDING_S * FRAMES_PER_SECOND)


def split_at_silences(
    blocks: Iterable[np.ndarray], sample_rate_hz: int, settings: InferenceConfig
) -> Iterator[Segment]:
    """Yield the segments of a sound, in order.

    Holds about 30 s and 4/3 of the longest segment at a time. Sound of up to `whole_up_to_s` is one segment from its
    first to its last sample, unless all of it is silence.

    `blocks` are the pieces of the sound, one after the other, of any lengths.
    """
    blocks = iter(blocks)
    whole = round(min(settings.whole_up_to_s, segment_lengths_s(settings)[0]) * sample_rate_hz)
    first = _read_more_than(blocks, whole)
    segments = _split(itertools.chain(first, blocks), sample_rate_hz, settings)
    if sum(map(len, first)) > whole:
        yield from segments
    elif next(segments, None):
        yield Segment(0, np.concatenate(first))


def _read_more_than(blocks: Iterator[np.ndarray], num_samples: int) -> list[np.ndarray]:
    read: list[np.ndarray] = []
    while sum(map(len, read)) <= num_samples and (block := next(blocks, None)) is not None:
        read.append(block)
    return read


def _split(blocks: Iterable[np.ndarray], sample_rate_hz: int, settings: InferenceConfig) -> Iterator[Segment]:
    frame_samples, limits = _frame_samples(sample_rate_hz), _limits(settings)
    pending = _Pending(frame_samples)
    for second in _with_loudness(_whole_seconds(blocks, frame_samples * FRAMES_PER_SECOND), frame_samples):
        pending.append(*second, settings.silence_db)
        yield from pending.take(limits, final=False)
    yield from pending.take(limits, final=True)


def longest_segment(sample_rate_hz: int, settings: InferenceConfig) -> int:
    """Return the most samples of a segment."""
    return _limits(settings).longest * _frame_samples(sample_rate_hz)


def segment_lengths_s(settings: InferenceConfig) -> tuple[float, float]:
    """Return the longest segment, and the longest of several pieces of sound with pauses between them, in seconds.

    The first is `max_segment_s`, or else longer than 95 % of the training utterances; the second is their median.
    """
    median_s, p95_s, _ = settings.trained_s
    if settings.max_segment_s is not None or not p95_s:
        longest_s = UNTRAINED_SEGMENT_S if settings.max_segment_s is None else settings.max_segment_s
        return longest_s, longest_s
    longest_s = min(max(p95_s, SHORTEST_LIMIT_S), LONGEST_LIMIT_S)
    return longest_s, min(median_s, longest_s)


def cut_to_length(segment: Segment, sample_rate_hz: int, settings: InferenceConfig) -> Iterator[Segment]:
    """Yield a segment in pieces of at most `longest_segment` samples, cut as sound without a pause is."""
    frame_samples, limits = _frame_samples(sample_rate_hz), _limits(settings)
    level_t = frame_levels(segment.wave, frame_samples)
    sound_t = is_sound(level_t, loudness(level_t), settings.silence_db)
    start = 0
    while len(level_t) - start > limits.longest:
        room = limits.longest // NEAR_LIMIT
        high = start + min(limits.longest, len(level_t) - start - room)
        stop = _quietest_point(level_t, sound_t, high - room, high, limits.min_silence)
        yield _part(segment, start * frame_samples, stop * frame_samples)
        start = stop
    yield _part(segment, start * frame_samples, len(segment.wave))


def _part(segment: Segment, start: int, stop: int) -> Segment:
    return Segment(segment.start + start, segment.wave[start:stop])


class _Pending:
    """Frames that are classified as sound or silence, but not yet in a segment or left out."""

    def __init__(self, frame_samples: int):
        self.frame_samples = frame_samples
        self.first_frame = 0
        self.wave = np.zeros(0, np.float32)
        self.level_t = np.zeros(0)
        self.sound_t = np.zeros(0, bool)

    def append(self, wave: np.ndarray, level_t: np.ndarray, loud_db: float, silence_db: float) -> None:
        """Add a second of sound."""
        self.wave = np.concatenate([self.wave, wave])
        self.level_t = np.concatenate([self.level_t, level_t])
        self.sound_t = np.concatenate([self.sound_t, is_sound(level_t, loud_db, silence_db)])

    def take(self, limits: _Limits, *, final: bool) -> Iterator[Segment]:
        """Yield the complete segments, and drop everything up to them."""
        while len(self.level_t):
            frames, done = _find_segment(self.level_t, self.sound_t, limits, final=final)
            if frames is not None:
                samples = slice(frames[0] * self.frame_samples, frames[1] * self.frame_samples)
                yield Segment(self.first_frame * self.frame_samples + samples.start, self.wave[samples].copy())
            if done:
                self.first_frame += done
                self.wave = self.wave[done * self.frame_samples :]
                self.level_t, self.sound_t = self.level_t[done:], self.sound_t[done:]
            if frames is None:
                return


def _find_segment(
    level_t: np.ndarray, sound_t: np.ndarray, limits: _Limits, *, final: bool
) -> tuple[tuple[int, int] | None, int]:
    """Return (first frame, frame after the last one) of the next segment, or None, and the number of finished frames.

    `level_t` is in dB; after the `final` call no more frames will come.
    """
    sounding = np.flatnonzero(sound_t)
    if not sounding.size:
        return None, len(sound_t) if final else max(len(sound_t) - limits.padding, 0)
    start = max(int(sounding[0]) - limits.padding, 0)
    last = _last_of_first(sounding, start, limits)
    end, pause = int(sounding[last]) + 1, 2 * limits.padding
    if last + 1 < len(sounding):
        pause = int(sounding[last + 1]) - end
    closed = final or last + 1 < len(sounding) or len(sound_t) - end >= limits.long_silence
    room = limits.longest // NEAR_LIMIT
    if end - start > limits.longest and (closed or end - start >= limits.longest + room):
        high = start + min(limits.longest, end - start - room)
        stop = _quietest_point(level_t, sound_t, high - room, high, limits.min_silence)
        return (start, stop), stop
    if closed:
        stop = min(end + min(limits.padding, pause // 2), start + limits.longest, len(sound_t))
        return (start, stop), stop
    return None, start


def _last_of_first(sounding: np.ndarray, start: int, limits: _Limits) -> int:
    """Return the place in `sounding` of the last frame of sound that belongs to the segment that starts at `start`."""
    silence = np.diff(sounding)
    long_pauses = np.flatnonzero(silence > limits.long_silence)
    last = int(long_pauses[0]) if long_pauses.size else len(sounding) - 1
    if limits.joined >= limits.longest:
        return last
    pauses = np.flatnonzero(silence[:last] > limits.min_silence)
    ends = np.append(pauses, last)
    joined = np.flatnonzero(sounding[ends] + 1 - start <= limits.joined)
    return int(ends[joined[-1] if joined.size else 0])


def _quietest_point(level_t: np.ndarray, sound_t: np.ndarray, low: int, high: int, min_silence: int) -> int:
    """Return the best frame to cut at, from `low` to `high`."""
    edges = np.diff(np.concatenate([[0], ~sound_t[low:high], [0]]).astype(np.int8))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if starts.size and (stops - starts).max() >= min_silence:
        longest = (stops - starts).argmax()
        return low + int(starts[longest] + stops[longest]) // 2
    smooth_t = np.convolve(level_t, np.full(SMOOTHED_FRAMES, 1 / SMOOTHED_FRAMES), mode="same")
    return low + int(smooth_t[low + 1 : high + 1].argmin()) + 1


def _with_loudness(seconds: Iterable[np.ndarray], frame_samples: int) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yield (wave, level of each frame, level of the loudest frames around) for each second of sound."""
    peaks: collections.deque[tuple[int, float]] = collections.deque()
    waiting: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque()
    number = 0

    def next_second() -> tuple[np.ndarray, np.ndarray, float]:
        now = number - len(waiting)
        while peaks[0][0] < now - SURROUNDINGS_S:
            peaks.popleft()
        return *waiting.popleft(), max(peak for _, peak in peaks)

    for wave in seconds:
        level_t = frame_levels(wave, frame_samples)
        peaks.append((number, loudness(level_t)))
        waiting.append((wave, level_t))
        number += 1
        if len(waiting) > SURROUNDINGS_S:
            yield next_second()
    while waiting:
        yield next_second()


def _whole_seconds(blocks: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """Yield the sound in pieces of `samples` samples; the last one may be shorter."""
    held: list[np.ndarray] = []
    size = 0
    for block in blocks:
        check_rank(block)
        held.append(block)
        size += len(block)
        if size < samples:
            continue
        wave = np.concatenate(held)
        stop = size // samples * samples
        yield from wave[:stop].reshape(-1, samples)
        held, size = [wave[stop:]], size - stop
    if size:
        yield np.concatenate(held)


def _frame_samples(sample_rate_hz: int) -> int:
    return round(sample_rate_hz / FRAMES_PER_SECOND)


def _limits(settings: InferenceConfig) -> _Limits:
    min_silence = round(settings.min_silence_s * FRAMES_PER_SECOND)
    longest_s, joined_s = segment_lengths_s(settings)
    return _Limits(
        longest=round(longest_s * FRAMES_PER_SECOND),
        joined=round(joined_s * FRAMES_PER_SECOND),
        min_silence=min_silence,
        long_silence=max(min_silence, round(LONG_SILENCE_S * FRAMES_PER_SECOND)),
    )
