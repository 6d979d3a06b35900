"""Streams: the same text however the sound is cut and whatever their neighbours do, and nothing from silence."""

import dataclasses
import gc

import jax
import numpy as np
import pytest

from asr.compiler import CompilationCounter
from asr.config import StreamingConfig
from asr.errors import NonFiniteError, UserError
from asr.inference.stream import StreamSession, stream_programs
from asr.inference.stream_segment import SegmentWork
from tiny_model import RATE_HZ
from tiny_stream import STREAMING, make_config, make_transcriber, random_wave, stream_all

SOUND = random_wave(2.35, seed=3)
NUM_SLOTS = 64


@pytest.fixture(scope="module")
def transcriber():
    return make_transcriber()


@pytest.fixture(scope="module")
def whole(transcriber):
    return transcriber.recognise(SOUND)


@pytest.mark.parametrize("piece", [1, 37, 479, 480, 3840, 100_000])
def test_the_tokens_are_those_of_the_whole_sound_however_it_is_cut(transcriber, whole, piece):
    sound = SOUND if piece > 1 else SOUND[:3000]
    events = stream_all(transcriber.stream(), sound, piece)
    expected = whole if piece > 1 else transcriber.recognise(sound)
    assert [i for event in events for i in event.token_ids] == list(expected.ids)
    assert len(set(expected.ids)) > (3 if piece > 1 else 0)
    np.testing.assert_allclose([t.confidence for e in events for t in e.tokens], expected.confidence, atol=1e-4)


def test_the_text_grows_and_ends_with_a_final_event(transcriber):
    stream = transcriber.stream()
    events, text, latest_s = stream_all(stream, SOUND), "", 0.0
    assert len(events) > 3
    for event in events:
        assert event.partial.startswith(text)
        text += event.text
        assert event.partial == text
        for token in event.tokens:
            assert latest_s <= token.start_s <= token.end_s <= event.heard_s
            latest_s = token.end_s
    assert [event.final for event in events] == [False] * (len(events) - 1) + [True]
    assert stream.text == text == events[-1].transcript.text == transcriber.transcribe(SOUND, RATE_HZ).text
    assert events[-1].transcript.duration_s == pytest.approx(2.35)


def test_times_are_near_those_of_the_whole_sound(transcriber, whole):
    tokens = [token for event in stream_all(transcriber.stream(), SOUND) for token in event.tokens]
    np.testing.assert_allclose([token.start_s for token in tokens], whole.start_s, atol=0.1)
    np.testing.assert_allclose([token.end_s for token in tokens], whole.end_s, atol=0.1)


@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_other_types_of_samples(transcriber, dtype):
    sound = (SOUND * 32768).astype(np.int16)
    sound = sound if dtype == np.int16 else sound.astype(np.float64) / 32768
    events = stream_all(transcriber.stream(), sound)
    expected = transcriber.recognise(sound.astype(np.float32) / (32768 if dtype == np.int16 else 1))
    assert [i for event in events for i in event.token_ids] == list(expected.ids)


@pytest.mark.parametrize("seconds", [0, 0.02, 0.5, 3.0])
def test_nothing_comes_of_nothing(transcriber, seconds):
    (event,) = stream_all(transcriber.stream(), np.zeros(int(seconds * RATE_HZ), np.float32))
    assert (event.text, event.token_ids, event.final, event.transcript.text) == ("", (), True, "")


def test_silence_between_sounds_adds_no_token(transcriber):
    sound, pause = SOUND[:8000], np.zeros(5 * RATE_HZ, np.float32)
    events = stream_all(transcriber.stream(), np.concatenate([sound, pause]))
    heard_s = [event.heard_s for event in events if event.token_ids]
    assert max(heard_s) < 2.5


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full(5, np.nan, np.float32), "found nan"),
        (np.array([0.0, np.inf]), "found inf"),
        (np.zeros((5, 2), np.float32), r"float32\[5, 2\]"),
        (np.arange(5), "int64"),
        (np.array([3.0, -12000.0]), "found 12000; divide 16-bit values by 32768"),
        ([0.1, "x"], "found <U"),
    ],
)
def test_what_is_no_sound_is_refused_and_changes_nothing(transcriber, whole, samples, message):
    stream = transcriber.stream()
    events = stream.push(SOUND[:7000])
    with pytest.raises(UserError, match=message):
        stream.push(samples)
    events += stream.push(SOUND[7000:]) + stream.push(SOUND[:0]) + stream.finish()
    assert [i for event in events for i in event.token_ids] == list(whole.ids)


def test_a_stream_that_has_ended(transcriber):
    stream = transcriber.stream()
    stream.finish()
    for call in (stream.finish, lambda: stream.push(SOUND)):
        with pytest.raises(UserError, match="has ended"):
            call()


def test_64_streams_that_start_pause_and_stop_at_random_are_as_alone(transcriber):
    rng = np.random.default_rng(0)
    programs = stream_programs(transcriber, transcriber.config.model.streaming, NUM_SLOTS)
    programs.warm_up()
    waves = [random_wave(rng.uniform(0.05, 1.2), seed=number) for number in range(2 * NUM_SLOTS)]
    ids = [[] for _ in waves]
    waiting, slots, sessions, works = list(range(len(waves))), {}, {}, {}
    with CompilationCounter() as counter:
        while waiting or slots:
            for slot in set(range(NUM_SLOTS)) - slots.keys():
                if waiting and rng.random() < 0.3:
                    number = waiting.pop()
                    slots[slot], sessions[slot] = number, StreamSession(transcriber, STREAMING.layout)
                    works[slot] = sessions[slot].accept(waves[number], final=True)
            active = [slot for slot in slots if rng.random() < 0.6]  # the others pause
            step = {slot: work for slot in active if (work := next(works[slot], None))}
            for slot in set(active) - step.keys():
                del slots[slot]  # ended
            for slot, recognition in programs.run({slot: work.chunk for slot, work in step.items()}).items():
                for event in step[slot].take(recognition):
                    ids[slots[slot]] += event.token_ids
    assert counter.count == 0
    for number, wave in enumerate(waves):
        alone = [i for event in stream_all(transcriber.stream(), wave) for i in event.token_ids]
        assert ids[number] == alone


def test_a_stream_that_is_given_up_and_one_that_is_not_finite_touch_no_other(transcriber):
    programs = stream_programs(transcriber, transcriber.config.model.streaming, NUM_SLOTS)
    good, lost = (StreamSession(transcriber, STREAMING.layout) for _ in range(2))
    works, ids = good.accept(SOUND, final=True), []
    bad = list(lost.accept(random_wave(2), final=True))
    for number, work in enumerate(works):
        if 0 < number < 3:  # as if a step had made it: a NaN in the sound is refused before
            context_bcd = programs._state.encoder.context_bcd.at[6].set(np.nan)
            programs._state = programs._state.replace(encoder=programs._state.encoder.replace(context_bcd=context_bcd))
        results = programs.run({5: work.chunk} | ({6: bad[number].chunk} if number < 3 else {}))
        if 0 < number < 3:
            with pytest.raises(NonFiniteError):
                bad[number].take(results[6])
        ids += [i for event in work.take(results[5]) for i in event.token_ids]
    assert ids == list(transcriber.recognise(SOUND).ids)
    again = StreamSession(transcriber, STREAMING.layout)  # in the slot that was not finite
    ids = [
        i for w in again.accept(SOUND, final=True) for e in w.take(programs.run({6: w.chunk})[6]) for i in e.token_ids
    ]
    assert ids == list(transcriber.recognise(SOUND).ids)


def test_200_bad_calls_and_streams_that_are_dropped_change_no_neighbour(transcriber, whole):
    rng, neighbour, ids = np.random.default_rng(1), transcriber.stream(), []
    bad = [
        lambda stream: stream.push(np.full(7, np.nan, np.float32)),
        lambda stream: stream.push(np.zeros((3, 2), np.int16)),
        lambda stream: stream.push(rng.integers(-9, 9, 5)),
        lambda stream: stream.push(np.array([1e9, -1e9])),
        lambda stream: stream.push(["a"]),
        lambda stream: stream.push(None),
        lambda stream: (stream.finish(), stream.push(SOUND[:10])),
        lambda stream: (stream.finish(), stream.finish()),
    ]
    for number in range(200):
        start = number * len(SOUND) // 200
        ids += [i for e in neighbour.push(SOUND[start : (number + 1) * len(SOUND) // 200]) for i in e.token_ids]
        other, size = transcriber.stream(), int(rng.choice([0, 1, 63, 1000, 4001]))
        text = "".join(event.text for event in other.push(SOUND[:size]))
        with pytest.raises(UserError):
            bad[number % len(bad)](other)
        if number % len(bad) < 6 and number % 5 == 0:
            rest = other.push(SOUND[size:8000]) + other.finish()
            assert text + "".join(event.text for event in rest) == rest[-1].transcript.text
    ids += [i for event in neighbour.finish() for i in event.token_ids]
    assert ids == list(whole.ids)


def test_the_state_of_a_stream_does_not_grow(transcriber):
    settings = StreamingConfig(chunk_size=(0, 4, 0), encoder_look_back=2, decoder_look_back=1)
    programs = stream_programs(transcriber, settings)
    before = programs.bytes_per_stream
    session = StreamSession(transcriber, settings.layout)
    for _ in range(6):
        for work in session.accept(SOUND):
            work.take(programs.run({0: work.chunk})[0])
    assert programs.bytes_per_stream == before
    gc.collect()
    assert len(session._segment._chunks._wave_n) < 2 * RATE_HZ


def test_a_look_back_without_end_gives_what_the_whole_sound_gives():
    streaming = StreamingConfig(chunk_size=(0, 4, 2), encoder_look_back=-1, decoder_look_back=-1)
    transcriber = make_transcriber(streaming=streaming)
    events = stream_all(transcriber.stream(), SOUND)
    assert [i for event in events for i in event.token_ids] == list(transcriber.recognise(SOUND).ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": (0, 0, 5)}, "at least one decoded"),
        ({"chunk_size": (0, 10)}, "3 values, found 2"),
        ({"chunk_size": 5}, "expected a list"),
        ({"rate": 0}, "a whole number of samples in a second"),
        ({"rate": "fast"}, "a whole number of samples in a second"),
        ({"encoder_look_back": -2}, "-1 to 1000, found -2"),
        ({"compat": "kaldi"}, "one of none, funasr"),
        ({"second_pass": "self"}, "vad=FOLDER"),
    ],
)
def test_settings_that_cannot_be_used(transcriber, settings, message):
    settings = {name: transcriber if value == "self" else value for name, value in settings.items()}
    with pytest.raises(UserError, match=message):
        transcriber.stream(**settings)


class Detector:
    """Speech at fixed times, known 0.2 s after the start and 0.3 s after the end of each stretch."""

    sample_rate_hz = RATE_HZ

    def __init__(self, *stretches_ms):
        self.stretches_ms = stretches_ms

    features = make_config().features

    def stream(self):
        return _Events(self.stretches_ms)


class _Events:
    def __init__(self, stretches_ms):
        self._coming = sorted(
            (time_ms + delay_ms, kind, time_ms)
            for stretch in stretches_ms
            for kind, delay_ms, time_ms in (("start", 200, stretch[0]), ("end", 300, stretch[1]))
        )
        self._heard = 0

    @property
    def earliest_start_ms(self):
        starts = [time_ms for _, kind, time_ms in self._coming if kind == "start"]
        return min([*starts, self._heard * 1000 // RATE_HZ])

    def accept(self, samples, final=False):
        self._heard += len(samples)
        events = []
        while self._coming and (final or self._coming[0][0] * RATE_HZ // 1000 <= self._heard):
            _, kind, time_ms = self._coming.pop(0)
            events.append(type("Event", (), {"kind": kind, "time_ms": time_ms}))
        return tuple(events)


@pytest.fixture
def listening(transcriber):
    transcriber.vad = Detector((300, 1000), (1300, 2200))
    yield transcriber
    transcriber.vad = None


@pytest.mark.parametrize("piece", [160, 1111, 100_000])
def test_each_stretch_of_speech_is_a_segment(listening, piece):
    events = stream_all(listening.stream(), SOUND, piece)
    stretches = [SOUND[2400:10080], SOUND[10400:18720]]  # heard until the end was known
    finals = [event for event in events if event.final]
    assert len(finals) == 2
    ids, segments = [], []
    for event in events:
        ids += event.token_ids
        if event.final:
            segments, ids = [*segments, ids], []
    assert segments == [list(listening.recognise(stretch).ids) for stretch in stretches]
    assert "".join(event.text for event in events) == " ".join(event.partial for event in finals)
    assert finals[1].transcript.segments[0].start_s == pytest.approx(1.3)
    assert all(1.299 < token.start_s < 2.201 for token in finals[1].transcript.tokens)
    assert [token.start_s for event in events[-2:] for token in event.tokens][-1] > 1.299


def test_a_second_pass_recognises_each_segment_again(listening):
    other = make_transcriber(seed=9)
    stream = listening.stream(second_pass=other)
    events = stream_all(stream, SOUND)
    finals = [event for event in events if event.final]
    stretches = [SOUND[2400:8000], SOUND[10400:17600]]
    assert [event.transcript.text for event in finals] == [other.transcribe(s, RATE_HZ).text for s in stretches]
    assert finals[0].transcript.text != finals[0].partial
    assert all(event.text == "" for event in finals)


def test_the_sound_of_a_long_segment_is_cut_for_the_second_pass(listening):
    listening.vad = Detector((100, 12_000))
    other = make_transcriber(seed=9)
    session = StreamSession(listening, STREAMING.layout, other)
    works = [*session.accept(np.tile(SOUND, 6), final=True)]
    (last,) = [work for work in works if isinstance(work, SegmentWork)]
    assert [len(piece.wave) <= 10 * RATE_HZ for piece in last.pieces] == [True, True]
    assert sum(len(piece.wave) for piece in last.pieces) == 11.9 * RATE_HZ


def test_a_stream_at_another_rate(transcriber):
    slow, fast = transcriber.stream(), transcriber.stream(rate=2 * RATE_HZ)
    tone = np.sin(np.arange(2 * RATE_HZ) * 0.3).astype(np.float32) * np.linspace(0, 0.5, 2 * RATE_HZ, dtype=np.float32)
    doubled = np.interp(np.arange(4 * RATE_HZ) / 2, np.arange(2 * RATE_HZ), tone).astype(np.float32)
    ids = [[i for event in stream_all(s, w) for i in event.token_ids] for s, w in ((slow, tone), (fast, doubled))]
    assert abs(len(ids[0]) - len(ids[1])) <= 1
    assert len(ids[0]) > 2


def test_only_a_streaming_model_streams(transcriber):
    plain = dataclasses.replace(
        transcriber.config, model=dataclasses.replace(transcriber.config.model, name="paraformer")
    )
    other = type(transcriber)(plain, transcriber.tokenizer, transcriber.cmvn, transcriber.variables)
    with pytest.raises(UserError, match="kind streaming, found one of the kind paraformer"):
        other.stream()


def test_the_programs_of_a_setting_are_shared(transcriber):
    transcriber.stream()
    with CompilationCounter() as counter:
        stream_all(transcriber.stream(), SOUND)
    assert counter.count == 0
    assert jax.tree.leaves(transcriber.stream()._programs._state)
