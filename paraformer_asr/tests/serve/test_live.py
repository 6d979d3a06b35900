"""Live streams: each as if it were alone, whatever its neighbours do and whatever fails."""

import asyncio
import contextlib
import dataclasses
import threading

import numpy as np
import pytest

from asr.config import StreamingConfig
from asr.errors import UserError
from asr.inference.transcription import GrowingTranscript
from asr.serve.engine_errors import Draining, Overloaded, RecognitionFailed, TooFarBehind, UnknownModeError
from asr.serve.live import LiveEngine
from serve.live_service import SETTINGS, make_models, running_live, speech
from tiny_model import RATE_HZ
from tiny_stream import STREAMING, make_transcriber

NUM_SLOTS, PATIENCE_S = 16, 30


@pytest.fixture(scope="module")
def live():
    streaming, offline = make_models()
    streaming.stream().push(speech(0))  # compiled before the engine is ready, for `alone`
    with running_live(streaming, offline, max_streams=NUM_SLOTS, websocket_buffer_s=5.0) as live:
        yield live


@pytest.fixture(autouse=True)
def nothing_stays_or_compiles(live):
    yield
    assert live.num_streams == 0 and len(live._free) == NUM_SLOTS
    assert live.engine.compilations_after_ready == 0


@pytest.fixture(scope="module")
def alone(live):
    """Return a function from a sound to what its stream alone gives."""
    known = {}

    def events_of(samples_n, second_pass=False):
        key = samples_n.tobytes(), second_pass
        if key not in known:
            stream = live.transcriber.stream(second_pass=live.engine.transcriber if second_pass else None)
            known[key] = summary(stream.push(samples_n) + stream.finish())
        return known[key]

    return events_of


def summary(events):
    """Return the text, the tokens, and the transcripts of the segments."""
    finals = [event.transcript for event in events if event.final]
    tokens = [i for event in events for i in event.token_ids]
    return "".join(event.text for event in events), tokens, finals


async def read(session):
    return [event async for event in session.events()]


@contextlib.asynccontextmanager
async def opened(live, **options):
    session = live.open(RATE_HZ, **options)
    try:
        yield session
    finally:
        session.close()


async def speak(session, samples_n, rng=None):
    """Push a sound in pieces of random numbers of bytes; return its events."""
    content, reading = samples_n.tobytes(), asyncio.create_task(read(session))
    while content:
        size = int(rng.integers(1, 5000)) if rng else 1600
        await session.push(content[:size])
        content = content[size:]
        await asyncio.sleep(rng.uniform(0, 0.004) if rng else 0)
    await session.flush()
    return await asyncio.wait_for(reading, PATIENCE_S)


def same(heard, expected):
    assert heard[:2] == expected[:2]
    assert [final.text for final in heard[2]] == [final.text for final in expected[2]]
    for final, other in zip(heard[2], expected[2], strict=True):
        np.testing.assert_allclose(times(final), times(other), atol=1e-3)


def times(transcript):
    return [(word.start_s, word.end_s) for word in transcript.words]


def test_each_of_many_streams_that_come_and_go_is_heard_as_if_alone(live, alone):
    rng = np.random.default_rng(5)

    async def client(seed):
        samples_n, second_pass = speech(seed % 6), seed % 2 == 0
        await asyncio.sleep(rng.uniform(0, 0.3))
        while True:
            with contextlib.suppress(Overloaded):
                async with opened(live, second_pass=second_pass) as session:
                    same(summary(await speak(session, samples_n, rng)), alone(samples_n, second_pass))
                    return
            await asyncio.sleep(0.02)

    async def leaver():
        while True:
            with contextlib.suppress(Overloaded):
                async with opened(live) as session:
                    await session.push(rng.bytes(rng.integers(0, 9000)))
                    await asyncio.sleep(rng.uniform(0, 0.01))
            await asyncio.sleep(rng.uniform(0, 0.02))

    async def main():
        for seed in range(6):
            assert len(alone(speech(seed), seed % 2 == 0)[0]) > 5
        leaving = asyncio.create_task(leaver())
        await asyncio.gather(*(client(seed) for seed in range(24)))
        leaving.cancel()
        await asyncio.wait({leaving})

    asyncio.run(main())
    registry = live.metrics.registry
    steps = registry.get_sample_value("asr_live_step_streams_count")
    assert registry.get_sample_value("asr_live_step_streams_sum") > 2 * steps  # steps are shared
    assert registry.get_sample_value("asr_live_first_text_seconds_count") >= 24
    assert registry.get_sample_value("asr_live_final_seconds_count") >= 24


def test_a_segment_is_recognised_again_as_a_whole(live):
    samples_n = speech(1, parts=3)

    async def main():
        async with opened(live, second_pass=True) as session:
            return await speak(session, samples_n)

    finals = [event for event in asyncio.run(main()) if event.final]
    offline, expected = live.engine.transcriber, []
    for segment in live.transcriber.vad.split([samples_n.astype(np.float32) / 32768], RATE_HZ, None):
        growing = GrowingTranscript(offline)
        growing.add(segment.start, segment.start + len(segment.wave), offline.recognise(segment.wave))
        expected.append(growing.finish(len(samples_n), ""))
    assert [event.transcript.text for event in finals] == [transcript.text for transcript in expected]
    for event, transcript in zip(finals, expected, strict=True):
        np.testing.assert_allclose(times(event.transcript), times(transcript), atol=1e-3)
    assert any(event.transcript.text != event.partial for event in finals)


def test_sounds_follow_each_other_in_a_session_and_half_a_sample_is_dropped(live, alone):
    async def main():
        async with opened(live) as session:
            for seed in (1, 2, 1):
                samples_n = speech(seed)
                same(summary(await speak(session, samples_n)), alone(samples_n))
                await session.push(b"\1")
                await session.flush()
                assert await read(session) == [] and not session.has_sound

    asyncio.run(main())


def test_text_comes_before_the_sound_ends(live):
    async def main():
        async with opened(live) as session:
            await session.push(speech(3).tobytes())
            event = await asyncio.wait_for(anext(session.events()), PATIENCE_S)
            assert event.text and not event.final

    asyncio.run(main())


def test_a_full_engine_refuses_until_a_slot_is_free(live):
    async def main():
        sessions = [live.open(RATE_HZ) for _ in range(NUM_SLOTS)]
        with pytest.raises(Overloaded):
            live.open(RATE_HZ)
        sessions[3].close()
        live.open(RATE_HZ).close()
        for session in sessions:
            session.close()
            session.close()

    asyncio.run(main())


def test_every_slot_comes_back_after_many_broken_conversations(live, alone):
    rng = np.random.default_rng(0)

    async def broken():
        session = live.open(RATE_HZ, second_pass=bool(rng.integers(2)))
        reading = asyncio.create_task(read(session))
        try:
            for _ in range(rng.integers(0, 4)):
                await session.push(rng.bytes(rng.integers(0, 12_000)))
                await asyncio.sleep(0)
            if rng.random() < 0.3:
                await session.flush()
            if rng.random() < 0.5:
                reading.cancel()
        finally:
            session.close()
            reading.cancel()
            await asyncio.wait({reading})

    async def main():
        for _ in range(200 // 10):
            await asyncio.gather(*(broken() for _ in range(10)))
        async with opened(live) as session:
            same(summary(await speak(session, speech(2))), alone(speech(2)))

    asyncio.run(main())
    assert live.engine.num_requests == 0


@contextlib.contextmanager
def steps(live, run):
    """Let `run(real, chunks)` take the steps."""
    programs, real = live._programs, live._programs.run
    programs.run = lambda chunks: run(real, chunks)
    try:
        yield
    finally:
        del programs.run


def poisoned(real, chunks):
    """Fail whatever holds the loudest possible sample."""
    if any(np.abs(chunk.wave_n).max() > 0.99 for chunk in chunks.values()):
        raise RuntimeError("a secret")
    return real(chunks)


def not_finite(real, chunks):
    results = real(chunks)
    bad = {slot for slot, chunk in chunks.items() if np.abs(chunk.wave_n).max() > 0.99}
    return {slot: dataclasses.replace(r, finite=slot not in bad) for slot, r in results.items()}


@pytest.mark.parametrize("run", [poisoned, not_finite])
def test_a_stream_that_fails_leaves_its_neighbours_alone(live, alone, run):
    async def main():
        async with opened(live) as good, opened(live) as bad:
            speaking = asyncio.create_task(speak(good, speech(1)))
            with pytest.raises(RecognitionFailed, match="failed on this stream"):
                await speak(bad, np.full(2 * RATE_HZ, 32767, "<i2"))
            with pytest.raises(RecognitionFailed):
                await bad.push(b"\0\0")
            same(summary(await speaking), alone(speech(1)))
            assert live.num_streams == 1

    with steps(live, run):
        asyncio.run(main())


def test_a_fault_in_the_rules_of_one_stream_ends_that_stream(live, alone, monkeypatch):
    stream = live.transcriber.vad.stream
    monkeypatch.setattr(live.transcriber.vad, "stream", lambda: 1 / 0, raising=True)

    async def main():
        async with opened(live) as bad:
            with pytest.raises(RecognitionFailed):
                await speak(bad, speech(1))
        monkeypatch.setattr(live.transcriber.vad, "stream", stream)
        async with opened(live) as good:
            same(summary(await speak(good, speech(1))), alone(speech(1)))

    asyncio.run(main())


def test_when_the_states_are_lost_new_streams_are_heard(live, alone):
    lost, loud_n = [], np.random.default_rng(0).integers(-9000, 9000, RATE_HZ).astype("<i2")

    def lose(real, chunks):
        if lost:
            raise RuntimeError("the device is gone")
        return real(chunks)

    async def main():
        async with opened(live) as within, opened(live) as waiting:
            events = within.events()
            await within.push(loud_n.tobytes())
            await asyncio.wait_for(anext(events), PATIENCE_S)  # it has a state
            lost.append(True)
            await within.push(loud_n.tobytes())
            with pytest.raises(RecognitionFailed):
                async for _ in events:
                    pass
            same(summary(await speak(waiting, speech(2))), alone(speech(2)))

    with contextlib.suppress(AttributeError), steps(live, lose):  # the programs are others now
        asyncio.run(main())
    assert lost


def test_a_stream_that_comes_too_fast_ends_and_its_neighbour_does_not(live, alone):
    gate = threading.Event()

    def wait(real, chunks):
        assert gate.wait(PATIENCE_S)
        return real(chunks)

    async def main():
        async with opened(live) as fast, opened(live) as good:
            speaking = asyncio.create_task(speak(good, speech(1)))
            with pytest.raises(TooFarBehind, match="more than 5 s"):
                for _ in range(8):
                    await fast.push(bytes(2 * RATE_HZ))
            with pytest.raises(TooFarBehind):
                await read(fast)
            gate.set()
            same(summary(await speaking), alone(speech(1)))

    with steps(live, wait):
        asyncio.run(main())


def test_no_step_waits_for_the_second_pass(live, alone, monkeypatch):
    release, recognise = asyncio.Event(), live.engine.recognise
    begun = asyncio.Event()

    async def slow(*arguments, **options):
        begun.set()
        await release.wait()
        async for result in recognise(*arguments, **options):
            yield result

    monkeypatch.setattr(live.engine, "recognise", slow)

    async def main():
        async with opened(live, second_pass=True) as session, opened(live) as other:
            speaking = asyncio.create_task(speak(session, speech(1)))
            await asyncio.wait_for(begun.wait(), PATIENCE_S)
            same(summary(await speak(other, speech(2))), alone(speech(2)))
            release.set()
            same(summary(await speaking), alone(speech(1), True))

    asyncio.run(main())


def test_an_engine_that_stops_ends_its_streams(live):
    other = LiveEngine(live.transcriber, live.engine, SETTINGS, live.metrics)
    other._programs = other._empty_programs()
    other._thread.start()

    async def main():
        session = other.open(RATE_HZ)
        reading = asyncio.create_task(read(session))
        await asyncio.sleep(0)
        await asyncio.to_thread(other.stop)
        with pytest.raises(Draining):
            await reading
        with pytest.raises(Draining):
            other.open(RATE_HZ)

    asyncio.run(main())


def test_models_that_cannot_be_live_are_refused(live):
    plain = make_transcriber(streaming=StreamingConfig(chunk_size=STREAMING.chunk_size, encoder_look_back=-1))
    with pytest.raises(UserError, match="look-back of -1"):
        LiveEngine(plain, live.engine, SETTINGS, live.metrics)
    without = LiveEngine(make_transcriber(), live.engine, SETTINGS, live.metrics)
    with pytest.raises(UnknownModeError, match="--vad"):
        without.open(RATE_HZ, second_pass=True)
