"""One thread owns the device: batches over clients, bounded queue, deadlines, cancellation, failures."""

import asyncio
import threading
import time

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")

from seg.serve.engine import Engine
from seg.serve.metrics import Metrics
from seg.serve.refusal import RefusedError
from seg.serve.settings import ServeSettings

SIZES = (1, 2, 4)


@pytest.fixture
def start():
    """Return a function that starts an engine, which ends with the test."""
    engines = []

    def make(predictor, **settings):
        engines.append(Engine(predictor, ServeSettings(batch_sizes=SIZES, **settings), Metrics()))
        engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        getattr(engine._predictor, "gate", threading.Event()).set()
        engine.stop()


class Slowed:
    """A predictor whose device waits for a gate, and may fail; it counts the windows of each call."""

    def __init__(self, predictor, is_bad=lambda windows_bhwc: False, answer=None):
        self._predictor, self._is_bad, self._answer = predictor, is_bad, answer
        self.gate, self.is_busy, self.calls = threading.Event(), threading.Event(), []
        self.gate.set()

    def hold(self):
        """Let the next call wait for the gate, and count from here."""
        self.gate.clear()
        self.is_busy.clear()
        self.calls.clear()

    def __getattr__(self, name):
        return getattr(self._predictor, name)

    def predict_bands(self, image_hwc):
        for band in self._predictor.predict_bands(image_hwc):
            self.is_busy.set()
            self.gate.wait()
            yield band

    def windows_forward(self, windows_bhwc):
        self.is_busy.set()
        self.gate.wait()
        self.calls.append(len(windows_bhwc))
        if self._is_bad(windows_bhwc):
            raise RuntimeError("the device is out of order")
        probabilities_bhwk = np.array(self._predictor.windows_forward(windows_bhwc))
        return probabilities_bhwk if self._answer is None else self._answer(windows_bhwc, probabilities_bhwk)


def segment(engine, *images, **options):
    async def all_at_once():
        return await asyncio.gather(*(engine.segment(image, **options) for image in images), return_exceptions=True)

    return asyncio.run(all_at_once())


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true")


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_answers_are_those_of_the_predictor_whoever_else_asks(start, make_predictor, random_image, fit):
    predictor = make_predictor(fit=fit)
    engine = start(predictor)
    images = [random_image(*size, seed) for seed, size in enumerate([(32, 24), (20, 9), (70, 50), (33, 24), (5, 60)])]
    alone = [segment(engine, image)[0] for image in images]
    together = segment(engine, *images * 3)
    for image, one in zip(images, alone, strict=True):
        np.testing.assert_array_equal(one.labels, predictor.predict(image).labels)
    for number, answer in enumerate(together):
        np.testing.assert_array_equal(answer.labels, alone[number % 5].labels)
        assert answer.probabilities is None
    assert engine.compilations_after_ready == 0


@pytest.mark.parametrize("size", [(20, 9), (70, 50)], ids=["one window", "many"])
@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_probabilities_are_those_of_the_predictor(start, make_predictor, random_image, fit, size):
    predictor, image = make_predictor(fit=fit), random_image(*size)
    (answer,) = segment(start(predictor), image, probabilities=True)
    expected = predictor.predict(image, probabilities=True)
    np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_array_equal(answer.labels, answer.probabilities.argmax(-1))


def test_images_of_many_clients_ride_together(start, predictor, random_image):
    slowed = Slowed(predictor)
    engine = start(slowed)
    slowed.hold()

    async def ask():
        first = asyncio.create_task(engine.segment(random_image(32, 24)))
        await until(lambda: slowed.is_busy.is_set())
        others = [asyncio.create_task(engine.segment(random_image(32, 24, seed))) for seed in range(7)]
        await until(lambda: len(engine._small) == 7)
        slowed.gate.set()
        await asyncio.gather(first, *others)

    asyncio.run(ask())
    assert slowed.calls == [1, 4, 4]  # 7 = 4 + 3, which the program of 4 computes


def test_a_batch_is_padded_by_less_than_a_third(predictor):
    engine = Engine(predictor, ServeSettings(batch_sizes=(1, 4, 16)), Metrics())
    expected = {0: 1, 1: 1, 2: 1, 3: 4, 4: 4, 5: 4, 11: 4, 12: 16, 16: 16, 99: 16}
    assert {number: engine._batch_size(number) for number in expected} == expected


def test_a_large_image_lets_small_ones_pass(start, predictor, random_image):
    slowed = Slowed(predictor)
    engine = start(slowed)
    slowed.hold()
    order = []

    async def ask(name, image):
        await engine.segment(image)
        order.append(name)

    async def ask_all():
        large = asyncio.create_task(ask("large", random_image(400, 24)))
        await until(lambda: slowed.is_busy.is_set())
        small = [asyncio.create_task(ask("small", random_image(32, 24, seed))) for seed in range(3)]
        await until(lambda: len(engine._small) == 3)
        slowed.gate.set()
        await asyncio.gather(large, *small)

    asyncio.run(ask_all())
    assert order == ["small"] * 3 + ["large"]


def test_a_failing_batch_is_tried_one_by_one(start, predictor, random_image):
    poison = np.full((32, 24, 3), 7, np.uint8)
    slowed = Slowed(predictor, is_bad=lambda windows: (windows == 7).all((1, 2, 3)).any())
    engine, good = start(slowed), random_image(32, 24)
    answers = segment(engine, good, poison, good, good)
    assert isinstance(answers[1], RefusedError) and (answers[1].status, answers[1].code) == (500, "segmentation_failed")
    assert answers[1].headers() == {"x-should-retry": "false"}
    for answer in (answers[0], answers[2], answers[3]):
        np.testing.assert_array_equal(answer.labels, predictor.predict(good).labels)


@pytest.mark.parametrize("size", [(32, 24), (70, 50)], ids=["one window", "many"])
def test_a_probability_that_is_not_finite_is_a_failure(start, make_predictor, random_image, size):
    def spoil(windows_bhwc, probabilities_bhwk):
        is_marked_b = (windows_bhwc == 0).all(-1).any((1, 2))
        probabilities_bhwk[is_marked_b, 0, 0, 0] = np.nan
        return probabilities_bhwk

    predictor = make_predictor()
    forward = predictor.windows_forward
    predictor.windows_forward = lambda windows: spoil(windows, np.array(forward(windows)))
    engine = start(predictor)
    marked, good = random_image(*size) | 1, random_image(*size, 1) | 1
    marked[3, 3] = 0
    failed, answer = segment(engine, marked, good)
    assert isinstance(failed, RefusedError) and failed.code == "segmentation_failed"
    np.testing.assert_array_equal(answer.labels, predictor.predict(good).labels)


def test_a_full_queue_refuses_at_once_and_recovers(start, predictor, random_image):
    slowed = Slowed(predictor)
    engine = start(slowed, max_queued_megapixels=5 * 32 * 24 / 1e6)
    slowed.hold()

    async def ask():
        waiting = [asyncio.create_task(engine.segment(random_image(32, 24))) for _ in range(5)]
        await until(lambda: engine._queued_megapixels > 4.5 * 32 * 24 / 1e6)
        start_s = time.monotonic()
        with pytest.raises(RefusedError) as refused:
            await engine.segment(random_image(1, 1))  # costs a whole window
        assert time.monotonic() - start_s < 1 and (refused.value.status, refused.value.code) == (429, "overloaded")
        assert 1 <= int(refused.value.headers()["retry-after"]) <= 30
        slowed.gate.set()
        await asyncio.gather(*waiting)
        assert (await engine.segment(random_image(1, 1))).labels.shape == (1, 1)

    asyncio.run(ask())
    assert engine._queued_megapixels == pytest.approx(0)


def test_a_large_image_does_not_keep_small_ones_out(start, predictor, random_image):
    """They take turns: a small one waits for the small ones before it, not for the whole of a large one."""
    slowed = Slowed(predictor)
    engine = start(slowed, max_queue_s=1.0, deadline_s=1e6)
    slowed.hold()

    async def ask():
        large = asyncio.create_task(engine.segment(random_image(400, 24)))
        await until(lambda: slowed.is_busy.is_set())
        engine._seconds_per_megapixel = 0.9 / (2 * 32 * 24 / 1e6)  # one small image ahead: 0.9 s
        engine.check_room()
        small = [asyncio.create_task(engine.segment(random_image(32, 24))) for _ in range(2)]
        await until(lambda: len(engine._small) == 2)
        with pytest.raises(RefusedError, match="too many images"):
            engine.check_room()
        engine.check_room(1.0, is_small=False)
        slowed.gate.set()
        await asyncio.gather(large, *small)

    asyncio.run(ask())


def test_an_empty_queue_takes_an_image_of_any_size(start, predictor, random_image):
    engine = start(predictor, max_queued_megapixels=1e-6)
    assert segment(engine, random_image(70, 50))[0].labels.shape == (70, 50)


def test_who_goes_away_costs_nothing(start, predictor, random_image):
    slowed = Slowed(predictor)
    engine = start(slowed)
    slowed.hold()

    async def ask():
        first = asyncio.create_task(engine.segment(random_image(32, 24)))
        await until(lambda: slowed.is_busy.is_set())
        gone = [asyncio.create_task(engine.segment(random_image(*size))) for size in [(32, 24)] * 3 + [(70, 50)]]
        await until(lambda: len(engine._small) == 3 and engine._large)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert engine._queued_megapixels == pytest.approx(32 * 24 / 1e6)
        slowed.gate.set()
        await first
        await engine.segment(random_image(32, 24))

    asyncio.run(ask())
    assert slowed.calls == [1, 1] and engine._metrics.dropped._value.get() == 4


def test_who_waits_for_too_long_is_told_so(start, predictor, random_image):
    slowed = Slowed(predictor)
    engine = start(slowed, deadline_s=0.2)
    slowed.hold()

    async def ask():
        first = asyncio.create_task(engine.segment(random_image(32, 24)))
        await until(lambda: slowed.is_busy.is_set())
        late = asyncio.create_task(engine.segment(random_image(32, 24)))
        await asyncio.sleep(0.3)
        slowed.gate.set()
        return await asyncio.gather(first, late, return_exceptions=True)

    _, late = asyncio.run(ask())
    assert (late.status, late.code) == (503, "deadline") and slowed.calls == [1]


def test_a_server_that_drains_answers_what_it_has_taken(start, predictor, random_image):
    slowed = Slowed(predictor)
    engine = start(slowed)
    slowed.hold()

    async def ask():
        waiting = asyncio.create_task(engine.segment(random_image(32, 24)))
        await until(lambda: engine._queued_megapixels)
        engine.drain()
        with pytest.raises(RefusedError, match="being stopped"):
            await engine.segment(random_image(32, 24))
        slowed.gate.set()
        assert (await waiting).labels.shape == (32, 24)

    asyncio.run(ask())


def test_an_engine_that_compiles_takes_no_images(predictor):
    engine = Engine(predictor, ServeSettings(), Metrics())
    with pytest.raises(RefusedError) as refused:
        engine.check_room()
    assert (refused.value.status, refused.value.code) == (503, "starting")
