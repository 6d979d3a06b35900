import time
import tracemalloc

import numpy as np
import pytest

from asr.config import InferenceConfig
from asr.inference.segmentation import frame_levels, longest_segment, segment_lengths_s, split_at_silences
from own_process import in_own_process

RATE = 8000
FRAME = RATE // 100


def tone(seconds, level=0.3):
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def noise(seconds, level):
    return (level * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def silence(seconds):
    return np.zeros(round(seconds * RATE), np.float32)


def sound(*pieces):
    return np.concatenate(pieces)


def split(wave, block=1000, **settings):
    blocks = (wave[i : i + block] for i in range(0, len(wave), block))
    return list(split_at_silences(blocks, RATE, InferenceConfig(**settings)))


def spans(segments):
    """Start and end of each segment in seconds, to the frame."""
    return [(round(s.start / RATE, 2), round((s.start + len(s.wave)) / RATE, 2)) for s in segments]


def check_cover(wave, segments, longest):
    """Every segment is a piece of the wave in its place; they are in order, short enough and miss no sound."""
    covered = np.zeros(len(wave), bool)
    for segment in segments:
        place = slice(segment.start, segment.start + len(segment.wave))
        assert not covered[place].any()
        assert 0 < len(segment.wave) <= longest
        np.testing.assert_array_equal(wave[place], segment.wave)
        covered[place] = True
    assert [s.start for s in segments] == sorted(s.start for s in segments)
    loud = np.repeat(frame_levels(wave, FRAME) > -20, FRAME)[: len(wave)]
    assert covered[loud].all()


def test_bursts_are_cut_out_with_their_context():
    wave = sound(silence(3), tone(0.5), silence(2), tone(1), silence(1.5))
    assert spans(split(wave)) == [(2.8, 3.7), (5.3, 6.7)]


def test_context_stops_at_the_ends_of_the_sound():
    wave = sound(tone(0.5), silence(1.1), tone(0.5))
    assert spans(split(wave)) == [(0, 0.7), (1.4, 2.1)]


def test_a_short_pause_splits_only_what_is_too_long():
    wave = sound(tone(2), silence(0.5), tone(2), silence(0.2), tone(2))
    assert spans(split(wave)) == [(0, 6.7)]
    ((_, cut), _) = spans(split(wave, max_segment_s=5.5))
    assert 4.5 < cut < 4.7
    assert spans(split(wave, max_segment_s=3))[0] == (0, 2.25)


def test_silence_at_least_as_long_as_asked_for_splits():
    wave = sound(tone(2), silence(1.5), tone(2))
    assert len(split(wave)) == 2
    assert spans(split(wave, min_silence_s=2)) == [(0, 5.5)]


def test_without_a_silence_the_quietest_point_near_the_limit_is_taken():
    wave = sound(tone(4.5), tone(0.1, 0.1), tone(4.5))
    ((_, cut), (start, end)) = spans(split(wave, max_segment_s=6))
    assert cut == start
    assert cut == pytest.approx(4.55, abs=0.03)
    assert end == 9.1


def test_a_gap_that_is_too_short_to_split_is_not_preferred_to_a_quiet_stretch():
    quiet = tone(0.4, 0.005)  # 36 dB below the rest: sound
    wave = sound(tone(5), silence(0.02), tone(0.5), quiet, tone(4))
    ((_, cut), _) = spans(split(wave, max_segment_s=7))
    assert 5.52 < cut < 5.92


def test_what_is_left_of_sound_that_is_a_little_too_long_is_no_sliver():
    for seconds in (6.05, 6.5, 7.9):
        segments = split(tone(seconds), max_segment_s=6)
        assert len(segments) == 2
        assert min(len(s.wave) for s in segments) >= 1.9 * RATE


def test_steady_sound_is_cut_into_pieces_that_are_neither_too_long_nor_tiny():
    wave = tone(61.03)
    segments = split(wave, max_segment_s=6)
    check_cover(wave, segments, 6 * RATE)
    assert sum(len(s.wave) for s in segments) == len(wave)
    assert min(len(s.wave) for s in segments) >= 1.9 * RATE


@pytest.mark.parametrize("level", [0, 1e-4], ids=["digital", "last bits"])
def test_silence_gives_nothing(level):
    assert split(noise(90, level)) == []
    assert split(silence(0)) == []


def test_a_constant_offset_is_no_sound():
    wave = sound(silence(3), tone(0.5), silence(2)) + np.float32(0.4)
    assert spans(split(wave)) == [(2.8, 3.7)]
    assert split(silence(3) + np.float32(0.4)) == []


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.03, 0.5])
def test_short_sound_is_one_segment(seconds):
    assert [len(s.wave) for s in split(tone(seconds))] == [round(seconds * RATE)]
    (segment,) = split(sound(silence(2), tone(seconds), silence(2)))
    assert segment.start == 1.8 * RATE
    assert len(segment.wave) >= len(tone(seconds)) + 0.4 * RATE


def test_the_level_of_silence_follows_the_surroundings():
    quiet = tone(2, 0.001)  # 49 dB below the loud tone
    assert spans(split(sound(tone(2), silence(3), quiet))) == [(0, 2.2)]
    assert spans(split(sound(tone(2), silence(3), quiet), silence_db=60)) == [(0, 2.2), (4.8, 7.0)]
    assert spans(split(sound(tone(2), silence(40), quiet))) == [(0, 2.2), (41.8, 44.0)]
    assert spans(split(sound(quiet, silence(40), tone(2)))) == [(0, 2.2), (41.8, 44.0)]
    assert spans(split(sound(quiet, silence(3), tone(2)))) == [(4.8, 7.0)]


def test_noise_between_words_is_silence():
    background = noise(12, 0.001)
    wave = background + sound(silence(2), tone(2), silence(4), tone(2), silence(2))
    assert spans(split(wave)) == [(1.8, 4.2), (7.8, 10.2)]


def test_a_click_does_not_silence_the_words_around_it():
    wave = sound(silence(1), tone(1, 0.003), silence(3))
    wave[4 * RATE : 4 * RATE + 60] = 1.0
    wave[4 * RATE + 30] = -1.0
    assert (0.8, 2.2) in spans(split(wave))


@pytest.mark.parametrize("seed", range(8))
def test_random_bursts_are_covered_whatever_the_blocks(seed):
    rng = np.random.default_rng(seed)
    pieces = [piece for _ in range(15) for piece in (tone(rng.uniform(0.02, 6)), silence(rng.uniform(0.02, 2)))]
    wave, settings = sound(*pieces), {"max_segment_s": rng.uniform(1, 8)}
    segments = split(wave, block=int(rng.integers(1, 20_000)), **settings)
    check_cover(wave, segments, longest_segment(RATE, InferenceConfig(**settings)))
    whole = split(wave, block=len(wave), **settings)
    assert spans(segments) == spans(whole)


def test_sound_up_to_a_length_stays_whole():
    wave = sound(silence(1), tone(0.5), silence(2), tone(1), silence(1.5))  # 6 s
    for block in (1000, 7 * RATE, 6 * RATE):
        (segment,) = split(wave, block, whole_up_to_s=6)
        assert segment.start == 0
        np.testing.assert_array_equal(segment.wave, wave)
    parts = spans(split(wave))
    assert len(parts) == 2
    for settings in ({"whole_up_to_s": 5.99}, {"whole_up_to_s": 20, "max_segment_s": 5}, {"whole_up_to_s": 0}):
        assert spans(split(wave, 7 * RATE, **settings)) == parts
        assert spans(split(wave, 900, **settings)) == parts
    assert split(silence(3), whole_up_to_s=20) == []
    assert split(silence(0), whole_up_to_s=20) == []


TRAINED_S = (2.5, 5.0, 6.0)


def test_pieces_share_a_segment_up_to_the_median_of_the_training_utterances():
    pause = silence(0.4)
    wave = sound(tone(1), pause, tone(1), pause, tone(1), pause, tone(3), pause, tone(0.5), silence(0.1), tone(0.5))
    assert spans(split(wave, trained_s=TRAINED_S)) == [(0, 2.6), (2.6, 4.0), (4.0, 7.4), (7.4, 8.7)]
    assert len(split(wave, trained_s=TRAINED_S, min_silence_s=0.5)) == 2  # then it is longer than 5 s, no more
    assert spans(split(wave, trained_s=TRAINED_S, max_segment_s=20)) == spans(split(wave)) == [(0, 8.7)]


def test_context_reaches_the_middle_of_a_short_pause_and_no_farther_than_0_2_s_into_a_longer_one():
    wave = sound(tone(2), silence(0.32), tone(2), silence(0.7), tone(2))
    assert spans(split(wave, trained_s=TRAINED_S)) == [(0, 2.16), (2.16, 4.52), (4.82, 7.02)]


@pytest.mark.parametrize(
    ("settings", "longest_s", "joined_s"),
    [
        ({}, 20, 20),
        ({"trained_s": TRAINED_S}, 5, 2.5),
        ({"trained_s": TRAINED_S, "max_segment_s": 12}, 12, 12),
        ({"trained_s": (0.3, 0.5, 0.6)}, 1, 0.3),
        ({"trained_s": (100.0, 500.0, 900.0)}, 120, 100),
    ],
)
def test_lengths_of_segments_are_those_of_the_training_unless_stated(settings, longest_s, joined_s):
    settings = InferenceConfig(**settings)
    assert segment_lengths_s(settings) == (longest_s, joined_s)
    assert longest_segment(RATE, settings) == longest_s * RATE


@pytest.mark.parametrize("seed", range(8))
def test_random_bursts_are_covered_with_known_lengths_too(seed):
    rng = np.random.default_rng(seed)
    wave = sound(*(piece for _ in range(20) for piece in (tone(rng.uniform(0.02, 4)), silence(rng.uniform(0.02, 1.3)))))
    settings = {"trained_s": (rng.uniform(0.5, 3), rng.uniform(3, 6), 9.0)}
    segments = split(wave, block=int(rng.integers(1, 20_000)), **settings)
    check_cover(wave, segments, longest_segment(RATE, InferenceConfig(**settings)))
    assert spans(segments) == spans(split(wave, block=len(wave), **settings))
    assert len(segments) > len(split(wave, max_segment_s=settings["trained_s"][1]))


def split_an_hour_of_silence_with_one_word():
    """Return its only segment, the seconds that it took, and the largest memory in bytes."""
    block, word = silence(10), sound(silence(5), tone(1), silence(4))
    blocks = (word if i == 200 else block for i in range(360))
    tracemalloc.start()
    start = time.perf_counter()
    (segment,) = split_at_silences(blocks, RATE, InferenceConfig())
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return segment, seconds, peak


def test_an_hour_of_silence_with_one_word_is_quick_and_small():
    segment, seconds, peak = in_own_process(split_an_hour_of_silence_with_one_word)
    assert segment.start == (2005 - 0.2) * RATE
    assert seconds < 20  # about 1 on a quiet machine
    assert peak < 10e6


def test_levels_are_variances_in_decibels():
    wave = sound(np.tile(np.float32([0.5, -0.5]), FRAME // 2), np.float32([0.1, 0.1, 0.1]))
    np.testing.assert_allclose(frame_levels(wave, FRAME), [20 * np.log10(0.5), -120], atol=1e-6)
