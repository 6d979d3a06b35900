"""The engine: who is served when, what is dropped, what happens to failures; and that batches change no answer."""

import asyncio
import contextlib
import dataclasses
import random
import threading
import time

import numpy as np
import pytest

from asr.config import (
    Config,
    FeaturesConfig,
    InferenceConfig,
    PredictorConfig,
)
from asr.inference.hotwords import Hotword
from asr.inference.recognition import Recognition
from asr.inference.segmentation import Segment
from asr.inference.shapes import make_ladder
from asr.inference.transcriber import Transcriber
from asr.serve.decoding import Decoded
from asr.serve.engine import (
    DECODED_SHARE,
    DeadlinePassed,
    Draining,
    Engine,
    Overloaded,
    RecognitionFailed,
    batch_sizes,
)
from asr.serve.metrics import Metrics
from asr.serve.queue import Request, SegmentQueue, choose_rows
from asr.serve.settings import ServeSettings
from tiny_model import INPUT_DIM, NUM_MELS, RATE_HZ, TOKENIZER, random_variables, tiny_model

CONFIG = Config(
    features=FeaturesConfig(num_mels=NUM_MELS, sample_rate_hz=RATE_HZ, cmvn="none"),
    model=tiny_model(input_dim=INPUT_DIM, predictor=PredictorConfig(initial_bias=-1.0)),
    inference=InferenceConfig(max_segment_s=2),
)
SETTINGS = ServeSettings(batch_rows=4, batch_lengths=2, max_hotwords=0)


def sound(*marks, seconds=1.0):
    """Return a sound of one segment for each mark, which is the value of its samples."""
    length = round(seconds * RATE_HZ)
    segments = tuple(Segment(i * length, np.full(length, mark, np.float32)) for i, mark in enumerate(marks))
    return Decoded(segments, length * len(marks), "no text")


class FakeTranscriber:
    """Recognises a segment as its mark.

    Attributes:
        batches: the marks of each batch.
        lists: its hot words.
        gate: closed, the device is busy.
        work: called with the marks of a batch.
    """

    config, tokenizer, compilations = CONFIG, TOKENIZER, 0

    def __init__(self):
        self.batches, self.lists = [], []
        self.gate, self.work = threading.Event(), lambda marks: None
        self.gate.set()

    def warm_up(self, shapes, hotwords=()):
        self.shapes = shapes

    def choose_shape(self, rows, num_samples):
        return min(s for s in self.shapes if s.batch_size >= rows and s.num_samples >= num_samples)

    def start(self, waves, hotwords=(), languages=()):
        marks = [float(wave[0]) for wave in waves]
        self.batches.append(marks)
        self.lists.append(hotwords)

        def finish():
            assert self.gate.wait(10)
            self.work(marks)
            columns = [np.zeros(1, np.float32)] * 3
            return [Recognition(np.array([mark]), *columns) for mark in marks]

        return finish


@contextlib.contextmanager
def running(transcriber, **settings):
    settings = dataclasses.replace(SETTINGS, **settings)
    engine = Engine(transcriber, settings, Metrics(settings))
    engine.start()
    transcriber.batches, transcriber.lists = [], []
    try:
        yield engine
    finally:
        if hasattr(transcriber, "gate"):
            transcriber.gate.set()
        engine.stop()


@pytest.fixture
def fake():
    return FakeTranscriber()


async def marks_of(engine, decoded, **options):
    return [float(recognition.ids[0]) async for _, recognition in engine.recognise(decoded, **options)]


async def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def busy(engine, fake):
    """Keep the device busy with a first request."""
    fake.gate.clear()
    first = asyncio.create_task(marks_of(engine, sound(99)))
    await until(lambda: fake.batches)
    try:
        yield
    finally:
        fake.gate.set()
        assert await first == [99]


def request(*lengths):
    segments = [Segment(0, np.zeros(length, np.float32)) for length in lengths]
    return Request(segments, RATE_HZ, deliver=lambda place, result: None)


def test_every_segment_is_taken_once_in_a_batch_that_it_fits():
    rng = random.Random(0)
    for _ in range(30):
        queue, requests = SegmentQueue(), [request(*rng.choices(range(1, 40), k=rng.randint(1, 9))) for _ in range(9)]
        sizes, taken = rng.choice([(1,), (1, 4), (2, 8), (1, 4, 16)]), {r: [] for r in requests}
        expected = {r: len(r.waiting) for r in requests}
        for one in requests:
            queue.add(one)
        while items := queue.take(sizes, lambda samples: -(-samples // 10) * 10):
            assert len(items) <= sizes[-1]
            for item in items:
                taken[item.request].append(item.place)
        assert taken == {r: list(range(number)) for r, number in expected.items()}
        assert len(queue) == 0 and queue.seconds() == 0


def test_requests_take_turns():
    queue, requests = SegmentQueue(), [request(*[10] * 5), request(*[10] * 5), request(10)]
    for one in requests:
        queue.add(one)
    long, other, short = requests
    taken = [queue.take((1,), lambda samples: 10)[0].request for _ in range(5)]
    assert taken == [long, other, short, long, other]
    taken = [item.request for item in queue.take((1, 4), lambda samples: 10)]
    assert taken == [long, other, long, other]


def test_a_longer_segment_of_another_request_does_not_lengthen_a_batch():
    queue = SegmentQueue()
    for one in (short := request(10), request(40), also_short := request(10)):
        queue.add(one)
    items = queue.take((1, 2), lambda samples: samples)
    assert [item.request for item in items] == [short, also_short]


def test_short_segments_wait_for_a_short_batch():
    queue = SegmentQueue()
    for one in (long := request(40), *(short := [request(10) for _ in range(3)])):
        queue.add(one)
    batches = [[item.request for item in queue.take((1, 4), lambda samples: samples)] for _ in range(2)]
    assert batches == [[long], short]


def test_a_row_that_would_be_empty_takes_a_shorter_segment():
    queue = SegmentQueue()
    for one in (requests := [*(request(40) for _ in range(3)), request(10)]):
        queue.add(one)
    assert [item.request for item in queue.take((1, 4), lambda samples: samples)] == requests


@pytest.mark.parametrize("number, rows", [(1, 1), (2, 1), (3, 3), (4, 4), (5, 4), (10, 4), (12, 12), (16, 16)])
def test_few_rows_of_a_batch_stay_empty(number, rows):
    assert choose_rows(number, (1, 4, 16)) == rows


@pytest.mark.parametrize("most, sizes", [(1, (1,)), (4, (1, 4)), (8, (1, 4, 8)), (16, (1, 4, 16))])
def test_few_sizes_of_batches_are_compiled(most, sizes):
    assert batch_sizes(most) == sizes


def test_segments_come_in_order_and_share_batches(fake):
    async def main(engine):
        async with busy(engine, fake):
            tasks = [asyncio.create_task(marks_of(engine, sound(*range(i, i + 3)))) for i in range(0, 60, 10)]
            await until(lambda: engine.num_requests == 7)
        return await asyncio.gather(*tasks)

    with running(fake) as engine:
        assert asyncio.run(main(engine)) == [[i, i + 1, i + 2] for i in range(0, 60, 10)]
        assert len(fake.batches) <= 1 + 6
        assert engine.num_requests == 0 and engine._held_s == 0


def test_nothing_waits_for_company_on_an_idle_device(fake):
    with running(fake, batch_wait_s=30.0) as engine:
        engine._last_batch_end = -1e9
        start = time.monotonic()
        asyncio.run(marks_of(engine, sound(1)))
        assert time.monotonic() - start < 15


def test_after_a_batch_a_segment_waits_a_moment_for_company(fake):
    async def later(engine, mark):
        await asyncio.sleep(0.01 * mark)
        await marks_of(engine, sound(mark))

    async def main(engine):
        await marks_of(engine, sound(1))
        start = time.monotonic()
        await asyncio.gather(*(later(engine, mark) for mark in range(4)))
        assert time.monotonic() - start < 15  # a full batch waits no longer

    with running(fake, batch_wait_s=30.0) as engine:
        asyncio.run(main(engine))
    assert sorted(map(len, fake.batches)) == [1, 4]


def test_a_long_sound_does_not_starve_short_ones(fake):
    fake.work = lambda marks: time.sleep(0.005)

    async def main(engine):
        long = asyncio.create_task(marks_of(engine, sound(*range(300), seconds=0.5)))
        await until(lambda: len(fake.batches) > 2)
        before = len(fake.batches)
        assert await marks_of(engine, sound(777)) == [777]
        long.cancel()
        return next(i for i, marks in enumerate(fake.batches) if 777 in marks) - before

    with running(fake) as engine:
        assert asyncio.run(main(engine)) <= 2


def test_too_much_sound_is_refused_at_once_with_a_time_to_come_back(fake):
    async def main(engine):
        async with busy(engine, fake):
            tasks = [asyncio.create_task(marks_of(engine, sound(1, 2))) for _ in range(5)]
            await until(lambda: engine.num_requests == 6)
            start = time.monotonic()
            with pytest.raises(Overloaded) as error:
                await marks_of(engine, sound(1))
            with pytest.raises(Overloaded):
                engine.check_room(0.0)
            assert time.monotonic() - start < 0.05
            assert 1 <= error.value.retry_after_s <= 30
        await asyncio.gather(*tasks)
        assert await marks_of(engine, sound(5)) == [5]

    with running(fake, queue_sound_s=10.0 / DECODED_SHARE) as engine:
        asyncio.run(main(engine))


def test_what_was_decoded_is_not_refused_for_an_estimate_that_was_a_little_short(fake):
    async def main(engine):
        async with busy(engine, fake):
            tasks = [asyncio.create_task(marks_of(engine, sound(1, 2))) for _ in range(5)]
            await until(lambda: engine.num_requests == 6)
            with pytest.raises(Overloaded):
                engine.check_room(0.0)
            engine.check_room(1.0)
        await asyncio.gather(*tasks)

    with running(fake, queue_sound_s=10.0) as engine:
        asyncio.run(main(engine))


def test_a_long_sound_does_not_fill_the_queue(fake):
    async def main(engine):
        async with busy(engine, fake):
            long = asyncio.create_task(marks_of(engine, sound(*range(30))))
            await until(lambda: engine.num_requests == 2)
            engine.check_room(1.0)
        await long

    with running(fake, queue_sound_s=10.0, request_share_s=5.0) as engine:
        asyncio.run(main(engine))


def test_an_upload_that_would_wait_long_is_refused_before_it_is_decoded(fake):
    async def main(engine):
        async with busy(engine, fake):
            task = asyncio.create_task(marks_of(engine, sound(1, 2)))
            await until(lambda: engine.num_requests == 2)
            engine.check_room(0.0)
            engine.speed = 0.1  # 2 s of sound wait for 20 s
            with pytest.raises(Overloaded) as error:
                engine.check_room(0.0)
            assert error.value.retry_after_s == pytest.approx(20)
            engine.check_room(1.0)  # it was decoded already
        await task

    with running(fake) as engine:
        asyncio.run(main(engine))


def test_uploads_that_are_not_decoded_yet_count(fake):
    with running(fake, queue_sound_s=10.0) as engine:
        engine._usual_s = 2.0
        engine.uploads = lambda: (4, 0.0)
        engine.check_room(0.0)
        engine.uploads = lambda: (5, 0.0)
        with pytest.raises(Overloaded):
            engine.check_room(0.0)
        engine.uploads = lambda: (1, 11.0)
        with pytest.raises(Overloaded):
            engine.check_room(0.0)


def test_the_sound_in_memory_is_bounded(fake):
    async def main(engine):
        async with busy(engine, fake):
            with pytest.raises(Overloaded):
                await marks_of(engine, sound(1, 2))

    with running(fake, held_sound_s=2.5) as engine:
        asyncio.run(main(engine))


@pytest.mark.parametrize("way", ["cancelled", "closed"])
def test_what_nobody_waits_for_never_reaches_the_device(fake, way):
    async def main(engine):
        async with busy(engine, fake):
            if way == "cancelled":
                task = asyncio.create_task(marks_of(engine, sound(*range(20))))
                await until(lambda: engine.num_requests == 2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                recognitions = engine.recognise(sound(*range(20)))
                waiting = asyncio.ensure_future(anext(recognitions))
                await until(lambda: engine.num_requests == 2)
                waiting.cancel()
                await asyncio.wait([waiting])
                await recognitions.aclose()
            assert engine.num_requests == 1 and engine._queue.seconds() == 0
        await marks_of(engine, sound(5))

    with running(fake) as engine:
        asyncio.run(main(engine))
        assert fake.batches == [[99], [5]]
        assert 'asr_dropped_segments_total{reason="cancelled"} 20.0' in engine.metrics.text().decode()


def test_what_is_late_never_reaches_the_device(fake):
    async def main(engine):
        async with busy(engine, fake):
            start = time.monotonic()
            with pytest.raises(DeadlinePassed):
                await marks_of(engine, sound(1, 2), deadline_s=0.05)
            assert time.monotonic() - start < 0.5

    with running(fake) as engine:
        asyncio.run(main(engine))
        assert fake.batches == [[99]]
        assert 'asr_dropped_segments_total{reason="deadline"} 2.0' in engine.metrics.text().decode()


def fail(marks):
    if 13 in marks:
        raise RuntimeError("the device is out of memory")


def not_finite(transcriber):
    start = transcriber.start

    def broken(waves, *options):
        finish = start(waves, *options)
        return lambda: [dataclasses.replace(r, finite=False) if r.ids[0] == 13 else r for r in finish()]

    transcriber.start = broken


@pytest.mark.parametrize("failure", ["exception", "not finite"])
def test_one_bad_segment_fails_alone(fake, failure):
    if failure == "exception":
        fake.work = fail
    else:
        not_finite(fake)

    async def main(engine):
        async with busy(engine, fake):
            tasks = [asyncio.create_task(marks_of(engine, sound(mark, 20))) for mark in (11, 12, 13, 14)]
            await until(lambda: engine.num_requests == 5)
        return await asyncio.gather(*tasks, return_exceptions=True)

    with running(fake) as engine:
        first, second, failed, fourth = asyncio.run(main(engine))
        assert [first, second, fourth] == [[11, 20], [12, 20], [14, 20]]
        assert isinstance(failed, RecognitionFailed)
        assert fake.batches[1:6] == [[11, 12, 13, 14], [11], [12], [13], [14]]
        assert sum(batch.count(20) for batch in fake.batches) == 3  # nothing more is done for what failed
        assert asyncio.run(marks_of(engine, sound(7))) == [7]


def test_a_failure_that_passes_is_not_seen(fake):
    failures = iter([1, 2])

    def work(marks):
        if next(failures, None) == 1:
            raise RuntimeError("once")

    with running(fake) as engine:
        fake.work = work
        assert asyncio.run(marks_of(engine, sound(1))) == [1]


def test_draining_finishes_what_has_begun(fake):
    async def main(engine):
        async with busy(engine, fake):
            begun = asyncio.create_task(marks_of(engine, sound(1, 2)))
            await until(lambda: engine.num_requests == 2)
            engine.drain()
            with pytest.raises(Draining):
                await marks_of(engine, sound(3))
        assert await begun == [1, 2]

    with running(fake) as engine:
        asyncio.run(main(engine))


def test_stopping_ends_what_waits(fake):
    async def main(engine):
        fake.gate.clear()
        first = asyncio.create_task(marks_of(engine, sound(99)))
        await until(lambda: fake.batches)
        second = asyncio.create_task(marks_of(engine, sound(1)))
        await until(lambda: engine.num_requests == 2)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        with pytest.raises(Draining):
            await second
        fake.gate.set()
        await stopping
        assert await first == [99]

    with running(fake) as engine:
        asyncio.run(main(engine))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_without_its_owner_accepts_nothing(fake, monkeypatch):
    with running(fake) as engine:
        monkeypatch.setattr(engine, "_process", lambda items: 1 / 0)
        with pytest.raises((Draining, DeadlinePassed)):
            asyncio.run(marks_of(engine, sound(1), deadline_s=0.2))
        assert not engine.ready
        with pytest.raises(Draining):
            engine.check_room(1.0)


def random_waves(number, seed=0):
    """Noise that swells and fades, so that the frames differ; 0.05 to 2 s."""
    rng, waves = np.random.default_rng(seed), []
    for length in rng.uniform(0.05, 2.0, number) * RATE_HZ:
        swell = np.sin(np.arange(int(length)) * rng.uniform(0.0003, 0.003)) ** 2
        waves.append((0.3 * swell * rng.standard_normal(int(length))).astype(np.float32))
    return waves


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber(CONFIG, TOKENIZER, None, random_variables(CONFIG.model))


@pytest.fixture(scope="module")
def engine(transcriber):
    engine = Engine(transcriber, SETTINGS, Metrics(SETTINGS))
    engine.start()
    yield engine
    engine.stop()


def text_of(transcriber, recognition):
    return transcriber.tokenizer.decode([int(i) for i in recognition.ids])


def test_no_answer_depends_on_batch_mates(engine, transcriber):
    """In each compiled shape: alone, in a batch of its own kind, and among the shortest segments."""
    shapes = make_ladder(2 * RATE_HZ, batch_sizes(4), SETTINGS.batch_lengths)
    assert len(shapes) == 4
    for length in {shape.num_samples for shape in shapes}:
        waves = [np.resize(wave, length - 100 * i) for i, wave in enumerate(random_waves(4, seed=length))]
        alone = [engine._recognise([wave])[0] for wave in waves]
        together = engine._recognise(waves)
        assert len({text_of(transcriber, r) for r in alone}) > 1
        for wave, one, other in zip(waves, alone, together, strict=True):
            among_short = engine._recognise([wave, *random_waves(3)])[0] if len(wave) > RATE_HZ else one
            assert one.ids.tolist() == other.ids.tolist() == among_short.ids.tolist()
            np.testing.assert_allclose(one.end_s, other.end_s, atol=1e-4)


def test_only_requests_with_the_same_hot_words_share_a_batch(fake):
    lists = (), (Hotword("a"),), (Hotword("a", 2.0),), *3 * [(Hotword("a"),)]

    async def ask(engine):
        fake.gate.clear()
        first = asyncio.create_task(marks_of(engine, sound(9)))  # holds the device until the others wait
        await until(lambda: fake.batches)
        tasks = [asyncio.create_task(marks_of(engine, sound(i), hotwords=hotwords)) for i, hotwords in enumerate(lists)]
        await until(lambda: engine._queue.num_waiting() == len(lists))
        fake.gate.set()
        return await asyncio.gather(first, *tasks)

    with running(fake) as engine:
        assert asyncio.run(ask(engine)) == [[9], [0], [1], [2], [3], [4], [5]]
        assert list(zip(fake.batches, fake.lists, strict=True)) == [
            ([9], ()),
            ([0], ()),
            ([1, 3, 4, 5], lists[1]),
            ([2], lists[2]),
        ]


def test_nothing_compiles_after_ready_and_texts_are_those_of_transcribe(engine, transcriber):
    sounds = [random_waves(number, seed=number) for number in (1, 2, 5, 3, 1, 4)]
    starts = [np.cumsum([0, *map(len, waves)])[:-1] for waves in sounds]
    decoded = [
        Decoded(tuple(Segment(int(s), w) for s, w in zip(start, waves, strict=True)), sum(map(len, waves)))
        for start, waves in zip(starts, sounds, strict=True)
    ]

    async def main():
        return await asyncio.gather(*(engine.transcribe(one, file="x") for one in decoded))

    outcomes = asyncio.run(main())
    assert engine.compilations_after_ready == 0
    for waves, outcome in zip(sounds, outcomes, strict=True):
        texts = [text_of(transcriber, transcriber.recognise(wave)) for wave in waves]
        assert [segment.text for segment in outcome.transcript.segments] == texts
        assert outcome.transcript.duration_s == sum(map(len, waves)) / RATE_HZ
        assert outcome.transcript.file == "x" and outcome.transcript.text == " ".join(filter(None, texts))
    transcriber.recognise(np.zeros(3 * RATE_HZ, np.float32))  # a shape that was not compiled
    assert engine.compilations_after_ready > 0


def test_silence_costs_nothing(engine):
    rows = engine.metrics.registry.get_sample_value("asr_batch_rows_count")
    outcome = asyncio.run(engine.transcribe(Decoded((), 800, "no speech: silent")))
    short = asyncio.run(engine.transcribe(Decoded((Segment(0, np.ones(9, np.float32)),), 9, "too short")))
    assert outcome.transcript.text == short.transcript.text == ""
    assert (outcome.why_empty, short.why_empty) == ("no speech: silent", "too short")
    assert engine.metrics.registry.get_sample_value("asr_batch_rows_count") == rows
