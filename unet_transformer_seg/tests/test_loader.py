"""Batches: pure in (seed, step), every sample once a pass, any number of threads, errors that name the file."""

import dataclasses
import threading

import numpy as np
import pytest

from seg.classes import make_class_table
from seg.config import DataConfig
from seg.data.dataset import Sample, SegmentationDataset
from seg.data.fingerprint import take_fingerprint
from seg.data.fit import fit_sample
from seg.data.loader import TrainLoader, iterate_eval
from seg.errors import UserError

CONFIG = DataConfig(size=(8, 8), num_threads=2, prefetch=3)


class Numbered(SegmentationDataset):
    """Sample i is filled with i; one of them may be damaged."""

    classes = make_class_table(("ground", "thing"))

    def __init__(self, length, size=(8, 8), damaged=-1):
        self.length, self.size, self.damaged = length, size, damaged

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.damaged:
            raise UserError(f"image_{index}.png: damaged")
        return Sample(np.full((*self.size, 3), index, np.uint8), np.full(self.size, index % 2, np.uint8), str(index))


class Gradient(Numbered):
    """Every pixel has a value of its own, the same in image and mask."""

    classes = make_class_table(tuple(f"value {i}" for i in range(255)))

    def __getitem__(self, index):
        mask = np.arange(np.prod(self.size), dtype=np.uint8).reshape(self.size)
        return Sample(np.repeat(mask[..., None], 3, axis=-1), mask, str(index))


def take(iterator, count):
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def assert_equal(one, other):
    assert one.keys() == other.keys() == {"image", "label", "index"}
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_batches_have_the_promised_form():
    batch = TrainLoader(Numbered(10), CONFIG, 4, seed=0).batch_at(0)
    assert {name: (a.shape, a.dtype) for name, a in batch.items()} == {
        "image": ((4, 8, 8, 3), np.uint8),
        "label": ((4, 8, 8), np.uint8),
        "index": ((4,), np.int32),
    }
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["label"][:, 0, 0], batch["index"] % 2)


@pytest.mark.parametrize(("length", "batch_size"), [(10, 4), (3, 8), (1, 2), (8, 4)])
def test_every_sample_comes_once_a_pass_and_each_pass_has_an_order_of_its_own(length, batch_size):
    loader = TrainLoader(Numbered(length), CONFIG, batch_size, seed=0)
    assert loader.steps_per_epoch == -(-length // batch_size)
    batches = take(loader.iterate(), -(-5 * length // batch_size))
    order = np.concatenate([batch["index"] for batch in batches])[: 5 * length].reshape(5, length)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(length), (5, 1)))
    if length >= 8:
        assert len({tuple(row) for row in order}) == 5


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_step_gives_one_batch_from_wherever_it_is_reached(threads):
    config = dataclasses.replace(CONFIG, num_threads=threads)
    dataset = Numbered(7)
    from_start = take(TrainLoader(dataset, config, 3, seed=5).iterate(), 12)
    resumed = take(TrainLoader(dataset, config, 3, seed=5).iterate(start_step=4), 8)
    for step in range(4, 12):
        assert_equal(from_start[step], resumed[step - 4])
        assert_equal(from_start[step], TrainLoader(dataset, CONFIG, 3, seed=5).batch_at(step))


def test_another_seed_gives_another_order():
    orders = {tuple(TrainLoader(Numbered(20), CONFIG, 20, seed).batch_at(0)["index"]) for seed in range(4)}
    assert len(orders) == 4


def test_a_window_is_pure_in_seed_and_step_and_moves():
    config = dataclasses.replace(CONFIG, size=(4, 4), fit="crop")
    loader = TrainLoader(Gradient(2, size=(12, 12)), config, 2, seed=1)
    again = TrainLoader(Gradient(2, size=(12, 12)), config, 2, seed=1)
    starts = set()
    for step in range(6):
        batch = loader.batch_at(step)
        assert_equal(batch, again.batch_at(step))
        np.testing.assert_array_equal(batch["image"][..., 0], batch["label"])
        starts |= {int(label[0, 0]) for label in batch["label"]}
    assert len(starts) > 6


def test_evaluation_goes_in_order_and_fills_up_with_ignored_samples():
    for threads in (0, 2):
        config = dataclasses.replace(CONFIG, num_threads=threads)
        batches = list(iterate_eval(Numbered(7), config, 3))
        np.testing.assert_array_equal([b["index"] for b in batches], [[0, 1, 2], [3, 4, 5], [6, -1, -1]])
        assert batches[-1]["image"].shape == (3, 8, 8, 3)
        np.testing.assert_array_equal(batches[-1]["label"][1:], 255)
        np.testing.assert_array_equal(batches[-1]["image"][1:], 0)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_in_a_thread_arrives_with_the_files_name(threads):
    config = dataclasses.replace(CONFIG, num_threads=threads)
    dataset = Numbered(7, damaged=5)
    with pytest.raises(UserError) as in_evaluation:
        list(iterate_eval(dataset, config, 2))
    with pytest.raises(UserError) as in_training:
        take(TrainLoader(dataset, config, 2, seed=0).iterate(), 4)
    assert str(in_evaluation.value) == str(in_training.value) == "image_5.png: damaged"


def test_threads_end_with_the_iterator():
    before = set(threading.enumerate())
    iterator = TrainLoader(Numbered(7), CONFIG, 2, seed=0).iterate()
    next(iterator)
    started = set(threading.enumerate()) - before
    assert len(started) == CONFIG.num_threads
    iterator.close()
    for thread in started:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_resizing_keeps_the_aspect_and_fills_up_with_ignored_pixels():
    sample = Gradient(1, size=(4, 16))[0]
    fitted = fit_sample(sample, dataclasses.replace(CONFIG, size=(8, 8)))
    assert fitted.image.shape == (8, 8, 3) and fitted.mask.shape == (8, 8)
    np.testing.assert_array_equal(fitted.mask[2:], 255)
    np.testing.assert_array_equal(fitted.image[2:], 0)
    assert set(np.unique(fitted.mask[:2])) <= set(np.unique(sample.mask))
    assert np.abs(fitted.image[:2, :, 0].astype(int) - fitted.mask[:2]).max() <= 12  # two rows are 16 apart


def test_growing_keeps_image_and_mask_together():
    half = np.repeat([0, 1], 8).astype(np.uint8)[None].repeat(16, axis=0)
    fitted = fit_sample(
        Sample(np.repeat(half[..., None] * 200, 3, -1), half, ""), dataclasses.replace(CONFIG, size=(64, 64))
    )
    np.testing.assert_array_equal(fitted.mask, np.repeat([0, 1], 32)[None].repeat(64, axis=0))
    np.testing.assert_array_equal(fitted.image[:, :28], 0)
    np.testing.assert_array_equal(fitted.image[:, 36:], 200)


def test_a_window_takes_native_pixels_and_the_middle_without_a_generator():
    sample = Gradient(1, size=(6, 12))[0]
    fitted = fit_sample(sample, dataclasses.replace(CONFIG, fit="crop"))
    np.testing.assert_array_equal(fitted.mask[:6], sample.mask[:, 2:10])
    np.testing.assert_array_equal(fitted.mask[6:], 255)
    np.testing.assert_array_equal(fitted.image[:6], sample.image[:, 2:10])


def test_a_sample_of_the_size_is_untouched():
    sample = Gradient(1, size=(8, 8))[0]
    for how in ("resize", "crop"):
        assert fit_sample(sample, dataclasses.replace(CONFIG, fit=how)) is sample


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s.image, s.mask), "expected a seg.Sample, found tuple"),
        (lambda s: None, "expected a seg.Sample, found NoneType"),
        (lambda s: Sample(s.image, s.mask, 3), "expected its name as str, found int"),
        (lambda s: Sample(s.image / 255, s.mask, ""), r"expected an image uint8.*, found float64\[8, 8, 3\] and uint8"),
        (lambda s: Sample(s.image[:4], s.mask, ""), r"expected an image .*found uint8\[4, 8, 3\] and uint8\[8, 8\]"),
        (lambda s: Sample(s.image, s.mask[..., None], ""), r"expected .* and a mask .*, found .* uint8\[8, 8, 1\]"),
        (lambda s: Sample(s.image.tolist(), s.mask, ""), "expected .*, found list and uint8"),
        (lambda s: Sample(s.image, s.mask + 1, ""), "expected labels 0…1, or 255 to ignore, found 2"),
    ],
)
def test_a_malformed_sample_is_refused_wherever_it_is_in_the_data_set(change, message):
    class Malformed(Numbered):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return change(sample) if index == 5 else sample

    config = dataclasses.replace(CONFIG, num_threads=0)
    with pytest.raises(UserError, match=rf"^Malformed\[5\]: {message}"):
        list(iterate_eval(Malformed(6), config, 2))
    with pytest.raises(UserError, match=rf"^Malformed\[5\]: {message}"):
        take(TrainLoader(Malformed(6), config, 2, seed=0).iterate(), 3)
    with pytest.raises(UserError, match=rf"^Malformed\[5\]: {message}"):
        take_fingerprint(Malformed(6))
