"""The pieces of speech for a recogniser: two rules as plain loops over all segments, and the sound cut by them.

The detector here hears nothing: it is told the segments, and reports each start and end some time after it.
"""

import types

import numpy as np
import pytest

from asr.config import InferenceConfig
from asr.config.voice_activity import VoiceActivityConfig
from asr.inference import speech_splitting
from asr.inference.speech_pieces import JoinedSpeech, MergedSpeech
from asr.inference.speech_segments import SpeechEvent
from speech_scores import draw_segments

RATE_HZ = 1000
"""A sample is a millisecond."""


def merge_plainly(segments, limit_ms):
    """Return the pieces of FunASR's rule, read with all starts and ends at hand, but for those without speech."""
    if len(segments) < 2:
        return segments
    times_ms = sorted({time_ms for segment in segments for time_ms in segment})
    pieces, begin_ms = [], 0
    for time_ms, following_ms in zip(times_ms, [*times_ms[1:], np.inf], strict=True):
        if following_ms - begin_ms >= limit_ms:
            pieces.append((begin_ms, time_ms))
            begin_ms = time_ms
    return [piece for piece in pieces if any(start < piece[1] and end > piece[0] for start, end in segments)]


def join_plainly(segments, limit_ms):
    pieces = []
    for start_ms, end_ms in segments:
        if pieces and end_ms - pieces[-1][0] <= limit_ms:
            start_ms, _ = pieces.pop()
        pieces.append((start_ms, end_ms))
    return pieces


RULES = [(MergedSpeech, merge_plainly), (JoinedSpeech, join_plainly)]


@pytest.mark.parametrize(("rule", "plainly"), RULES)
def test_a_rule_makes_the_pieces_of_the_plain_one(rule, plainly):
    num_pieces = 0
    for seed in range(300):
        segments, limit_ms = draw_segments(seed, least=2), 10 * (1 + 37 * seed % 1500)
        pieces, now = [], rule(limit_ms)
        for segment in segments:
            pieces += now.accept(*segment)
        pieces += now.finish()
        assert pieces == plainly(segments, limit_ms), seed
        num_pieces += len(pieces)
    assert 600 < num_pieces < 1800  # segments are joined, and not all of them


@pytest.mark.parametrize(("rule", "plainly"), RULES)
def test_silence_tells_early_what_is_complete_and_no_more_than_a_piece_is_needed(rule, plainly):
    num_early = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        segments, limit_ms = draw_segments(seed, least=2), 10 * (1 + 37 * seed % 1500)
        pieces, now, end_ms, needed_ms = [], rule(limit_ms), 0, 0
        for segment in segments:
            for time_ms in np.sort(rng.integers(end_ms, segment[0] + 1, rng.integers(0, 4))):
                early = list(now.reach(time_ms))
                num_early += len(early)
                pieces += early
                assert all(start_ms >= needed_ms for start_ms, _ in early)
                needed_ms = now.needed_from_ms(time_ms)
                assert 0 <= time_ms - needed_ms <= limit_ms
            complete = list(now.accept(*segment))
            assert all(start_ms >= needed_ms for start_ms, _ in complete)
            pieces, end_ms = pieces + complete, segment[1]
        assert [*pieces, *now.finish()] == plainly(segments, limit_ms), seed
    assert num_early > 100


class Stream:
    """Reports each start and end `delay_ms` after it, or at the end of the sound."""

    def __init__(self, segments, delay_ms):
        pairs = [zip(("start", "end"), segment, strict=True) for segment in segments]
        self.waiting, self.delay_ms = [SpeechEvent(*event) for pair in pairs for event in pair], delay_ms
        self.heard_ms = self.earliest_start_ms = 0

    def accept(self, samples, final):
        self.heard_ms += len(samples)
        certain_ms = self.heard_ms if final else self.heard_ms - self.delay_ms
        events = [event for event in self.waiting if event.time_ms <= certain_ms]
        self.waiting = self.waiting[len(events) :]
        self.earliest_start_ms = max(self.earliest_start_ms, certain_ms)
        return events


def detector_of(segments, delay_ms, **settings):
    return types.SimpleNamespace(
        settings=VoiceActivityConfig(**settings), sample_rate_hz=RATE_HZ, stream=lambda: Stream(segments, delay_ms)
    )


def split(detector, wave_n, rng, settings):
    ends = np.sort(rng.integers(0, len(wave_n) + 1, rng.integers(0, 80)))
    return list(speech_splitting.split_at_speech(detector, np.split(wave_n, ends), RATE_HZ, settings))


def test_the_sound_of_the_pieces_is_that_of_their_times(monkeypatch):
    class Watched(speech_splitting._Held):
        def drop_before(self, time_ms):
            super().drop_before(time_ms)
            held_ms.append(len(self._wave_n))

    monkeypatch.setattr(speech_splitting, "_Held", Watched)
    num_alone = 0
    for seed in range(100):
        rng, segments = np.random.default_rng(seed), draw_segments(seed)
        limit_s, delay_ms, held_ms = float(rng.integers(1, 12)), int(rng.integers(1, 900)), []
        end_ms = segments[-1][1] if segments else 5000
        wave_n = np.arange(end_ms + rng.integers(0, 60_000), dtype=np.float32)
        detector = detector_of(segments, delay_ms, join_up_to_s=limit_s, keep_silence=True)
        pieces = split(detector, wave_n, rng, InferenceConfig(max_segment_s=20.0))
        spans = [(piece.start, piece.start + len(piece.wave)) for piece in pieces]
        assert spans == merge_plainly(segments, 1000 * limit_s), seed
        for piece in pieces:
            np.testing.assert_array_equal(piece.wave, wave_n[piece.start : piece.start + len(piece.wave)])
        longest_ms = max((end - start for start, end in segments), default=0)
        assert max(held_ms) <= 1000 * limit_s + longest_ms + delay_ms
        num_alone += len(segments) == 1 and segments[0][0] > 0
    assert num_alone > 3


def test_what_is_longer_than_the_recogniser_takes_is_cut():
    detector = detector_of([(500, 3000), (4000, 7000), (7500, 8000)], 100, join_up_to_s=100.0, keep_silence=True)
    rng = np.random.default_rng(0)
    wave_n = rng.normal(size=9000).astype(np.float32)
    pieces = split(detector, wave_n, rng, InferenceConfig(max_segment_s=2.0))
    assert all(len(piece.wave) <= 2000 for piece in pieces)
    np.testing.assert_array_equal(np.concatenate([piece.wave for piece in pieces[:2]]), wave_n[500:3000])
    assert pieces[-1].start + len(pieces[-1].wave) == 8000
