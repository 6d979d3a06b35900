"""From scores to segments: FunASR's recorded answers, any cut, and what FunASR gets wrong.

`recorded/vad_tiny/answers.json` holds answers of funasr 1.4.16, times in ms. `runs`: to the scores in `scores.npz` of
15 s of speech, by rules and length of the calls; `random`: to the frames and rules that `speech_scores` draws from a
seed, call by call.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from asr.config.voice_activity import VoiceActivityConfig
from asr.inference.speech_segments import SpeechSegments
from asr.published.funasr_vad_settings import CLASS, read_vad_settings
from speech_scores import cut, draw_frames, draw_rules

RECORDED = Path(__file__).parent / "recorded" / "vad_tiny"
ANSWERS = json.loads((RECORDED / "answers.json").read_text())
SCORES = np.load(RECORDED / "scores.npz")
FRAMES = SCORES["silence_t"], SCORES["level_db_t"]

SPEECH, SILENCE = [0.0], [1.0]
DEFAULT = VoiceActivityConfig()


def read_rules(rules):
    content = {"model": CLASS, "encoder": "FSMN", "frontend": "WavFrontend", "model_conf": rules}
    return read_vad_settings(Path("config.yaml"), content)[0]


def run(settings, silence_t, level_db_t, ends=None):
    """Return the times of each call."""
    segments, ends = SpeechSegments(settings), ends or [0, len(silence_t)]
    return [
        [event.time_ms for event in segments.accept(silence_t[a:b], level_db_t[a:b], final=b == ends[-1])]
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]


def times(silence, settings=DEFAULT, level_db=-20.0):
    (events,) = run(settings, silence, [level_db] * len(silence))
    return events


def numbered(calls):
    return [[number, events] for number, events in enumerate(calls) if events]


@pytest.mark.parametrize("name", ANSWERS["runs"])
def test_the_recorded_times_whole_and_in_calls(name):
    recorded = ANSWERS["runs"][name]
    settings = read_rules(recorded["rules"])
    if name.startswith("default"):  # FunASR's default is a rule of its own
        settings = dataclasses.replace(settings, dynamic_end_silence=True)
    if "times" in recorded:
        assert run(settings, *FRAMES) == [recorded["times"]]
        return
    # A call of n ms more completes the frames whose windows, and the two frames behind them, have ended.
    samples = np.arange(0, 16 * 15287, 16 * recorded["chunk_ms"])[1:]
    ends = [max((n - 400) // 160 + 1 - 2, 0) if n >= 400 else 0 for n in samples]
    assert numbered(run(settings, *FRAMES, [0, *ends, len(FRAMES[0])])) == recorded["events"]


@pytest.mark.parametrize("seed", range(len(ANSWERS["random"])))
def test_the_recorded_times_of_random_scores_and_rules(seed):
    frames, recorded = draw_frames(seed), ANSWERS["random"][str(seed)]
    calls = run(read_rules(draw_rules(seed)), *frames, ends := cut(len(frames[0]), seed))
    if sum(len(events) for _, events in recorded) % 2:  # FunASR leaves a segment open that starts with the last frame
        assert calls[-1].pop() == 10 * ends[-1]
    assert numbered(calls) == recorded


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_cut_does_not_matter(dynamic):
    for seed in range(60):
        settings = dataclasses.replace(read_rules(draw_rules(seed)), dynamic_end_silence=dynamic)
        (whole,) = run(settings, *draw_frames(seed))
        pieces = run(settings, *draw_frames(seed), cut(len(draw_frames(seed)[0]), seed + 1))
        assert sum(pieces, []) == whole
        assert len(whole) % 2 == 0 and whole == sorted(whole)


def test_a_segment_by_hand():
    # Frames 100 … 199 are speech. 15 of 20 are at frame 114, which is 0.4 s behind the start; at most 15 are again at
    # frame 204, and the segment ends 0.12 s behind that.
    frames = SILENCE * 100 + SPEECH * 100 + SILENCE * 100
    assert times(frames) == [1140 - 400, 2040 + 120]
    assert times(frames, dataclasses.replace(DEFAULT, extend=False)) == [1140 - 200, 2050]
    # It is known once the silence has lasted 0.65 s.
    assert run(DEFAULT, frames, [-20.0] * 300, [0, 204 + 65, 300]) == [[740], [2160]]
    assert run(DEFAULT, frames, [-20.0] * 300, [0, 204 + 66, 300]) == [[740, 2160], []]


def test_probabilities_of_exactly_0_and_1_are_no_error():
    assert times(SILENCE * 300) == []
    assert times(SPEECH * 300) == [0, 3000]


def test_a_segment_that_starts_with_the_last_frame_ends_with_it():
    assert times(SILENCE * 50 + SPEECH * 14) == []
    assert times(SILENCE * 50 + SPEECH * 15) == [240, 650]


def test_the_configured_end_silence_counts_and_the_dynamic_one_has_a_name():
    pause = SPEECH * 100 + SILENCE * 120 + SPEECH * 100
    assert len(times(pause)) == 4
    dynamic = dataclasses.replace(DEFAULT, dynamic_end_silence=True)
    assert len(times(pause, dynamic)) == 2
    # After 10 s of speech 1 s of silence is enough.
    assert len(times(SPEECH * 1000 + pause, dynamic)) == 4
    # The margin between speech and silence is smaller, too: 1 − 0.24 ≥ 0.24 + 0.5.
    assert times([0.24] * 100) == [] and times([0.24] * 100, dynamic) == [0, 1000]


def test_nothing_of_one_sound_stays_for_the_next():
    first = times(FRAMES[0])
    times(FRAMES[0], dataclasses.replace(DEFAULT, max_end_silence_ms=2500, max_segment_ms=2000))
    assert times(FRAMES[0]) == first


def test_one_segment_or_a_silent_start():
    one = dataclasses.replace(DEFAULT, mode="one")
    twice = (SILENCE * 100 + SPEECH * 100) * 2 + SILENCE * 100
    assert times(twice, one) == times(twice)[:2]
    assert times(SILENCE * 301 + SPEECH * 100, one) == []
    assert times(SILENCE * 286 + SPEECH * 100, one) != []


def test_levels_make_silence_of_what_sounds_like_speech():
    loud = dataclasses.replace(DEFAULT, min_level_db=-30.0)
    assert times(SPEECH * 100, loud, level_db=-31.0) == [] and times(SPEECH * 100, loud, level_db=-30.0) == [0, 1000]
    snr = dataclasses.replace(DEFAULT, min_snr_db=10.0)
    frames, levels = SILENCE * 100 + SPEECH * 100, np.r_[np.full(100, -50.0), np.full(100, -41.0)]
    assert run(snr, frames, levels) == [[]]
    assert run(snr, frames, levels + np.r_[np.zeros(100), np.ones(100)]) == [[740, 2000]]


def test_the_first_free_frame_is_where_a_segment_may_start():
    for seed in range(40):
        settings, (silence_t, level_db_t) = read_rules(draw_rules(seed)), draw_frames(seed)
        segments, free_ms = SpeechSegments(settings), 0
        for frame in zip(silence_t, level_db_t, strict=True):
            for event in segments.accept(*([value] for value in frame)):
                assert event.kind == "end" or event.time_ms >= free_ms
            assert segments.first_free * 10 >= free_ms
            free_ms = segments.first_free * 10
        assert segments.is_open or segments.first_free >= len(silence_t) - 100  # what lies before can be forgotten
