"""Batches: their form, pure in (seed, step), any number of threads, errors that name the line."""

import dataclasses
import logging
import threading

import numpy as np
import pytest

from asr.config import AugmentConfig, Config, DataConfig, FeaturesConfig, TokenizerConfig, ToyConfig, TrainingConfig
from asr.data import SpeechDataset, Utterance, build_dataset
from asr.data.loader import TOLERANCE_S, EvalLoader, TrainLoader
from asr.data.sounds.audio import change_speed
from asr.data.text.building import build_tokenizer
from asr.data.text.tokenizer import END_ID
from asr.errors import UserError

RATE_HZ = 8000
CONFIG = Config(
    features=FeaturesConfig(sample_rate_hz=RATE_HZ, num_mels=20),
    data=DataConfig(num_buckets=3, num_threads=2, prefetch=3),
    training=TrainingConfig(batch_seconds=4.0, num_epochs=3),
)
TOKENIZER = build_tokenizer(TokenizerConfig(), ["abcdefghij klmnopqrst"])


class Numbered(SpeechDataset):
    """Utterance i is a constant 0.01·(i + 1), its text so many letters; its stated length may be wrong."""

    def __init__(self, durations_s, stated_s=None, damaged=-1):
        self.real_s, self.damaged = np.asarray(durations_s, np.float64), damaged
        self.stated_s = self.real_s if stated_s is None else np.asarray(stated_s, np.float64)

    def __len__(self):
        return len(self.real_s)

    def __getitem__(self, index):
        if index == self.damaged:
            raise UserError(f"sound_{index}.wav: damaged")
        wave_n = np.full(round(self.real_s[index] * RATE_HZ), 0.01 * (index + 1), np.float32)
        return Utterance(wave_n, RATE_HZ, self.texts()[index], str(index))

    def durations_s(self):
        return self.stated_s

    def texts(self):
        return ["abcdefghij"[: i % 5 + 1] for i in range(len(self))]

    def names(self):
        return [f"line {i}" for i in range(len(self))]


DATASET = Numbered(0.5 + np.arange(13) % 7 / 5)


def changed(**sections):
    """Return the config with changes of its sections."""
    return dataclasses.replace(
        CONFIG, **{name: dataclasses.replace(getattr(CONFIG, name), **values) for name, values in sections.items()}
    )


SPEEDS = changed(data={"augment": AugmentConfig(speeds=(0.8, 1.0, 1.25))})


def assert_equal(one, other):
    assert one.keys() == other.keys() == {"wave", "wave_lengths", "tokens", "token_lengths", "index"}
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("append_eos", [True, False])
def test_batches_have_the_promised_form(append_eos):
    predictor = dataclasses.replace(CONFIG.model.predictor, append_eos=append_eos)
    loader = TrainLoader(DATASET, TOKENIZER, changed(model={"predictor": predictor}))
    shapes = set()
    for step in range(loader.steps_per_epoch):
        batch = loader.batch_at(step)
        (rows, num_samples), num_tokens = batch["wave"].shape, batch["tokens"].shape[1]
        shapes.add((rows, num_samples, num_tokens))
        assert {name: (a.shape, a.dtype) for name, a in batch.items()} == {
            "wave": ((rows, num_samples), np.float32),
            "wave_lengths": ((rows,), np.int32),
            "tokens": ((rows, num_tokens), np.int32),
            "token_lengths": ((rows,), np.int32),
            "index": ((rows,), np.int32),
        }
        for row, index in enumerate(batch["index"]):
            expected = TOKENIZER.encode(DATASET.texts()[index]) + [END_ID] * append_eos if index >= 0 else []
            length = round(DATASET.real_s[index] * RATE_HZ) if index >= 0 else 0
            assert batch["token_lengths"][row] == len(expected) and batch["wave_lengths"][row] == length
            assert batch["tokens"][row].tolist() == expected + [0] * (num_tokens - len(expected))
            np.testing.assert_array_equal(batch["wave"][row, :length], np.float32(0.01 * (index + 1)))
            np.testing.assert_array_equal(batch["wave"][row, length:], 0)
    assert shapes <= {dataclasses.astuple(shape) for shape in loader.plan.shapes}


@pytest.mark.parametrize("config", [CONFIG, SPEEDS], ids=["one speed", "speeds"])
def test_every_utterance_comes_once_an_epoch_and_each_epoch_has_an_order_of_its_own(config):
    loader = TrainLoader(DATASET, TOKENIZER, config)
    batches = list(loader.iterate())
    assert len(batches) == loader.num_steps
    orders = []
    for start, stop in zip(loader.epoch_starts, loader.epoch_starts[1:], strict=False):
        order = np.concatenate([batch["index"] for batch in batches[start:stop]])
        orders.append(tuple(order[order >= 0]))
        assert sorted(orders[-1]) == list(range(len(DATASET)))
    assert len(set(orders)) == 3


def test_a_step_belongs_to_its_epoch():
    loader = TrainLoader(DATASET, TOKENIZER, SPEEDS)
    places = [loader.locate(step) for step in range(loader.num_steps)]
    assert places == [(e, m) for e in range(3) for m in range(loader.plan.num_batches(e))]
    assert loader.steps_per_epoch == loader.plan.num_batches(0)
    for step in (-1, loader.num_steps):
        with pytest.raises(IndexError):
            loader.locate(step)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_step_gives_one_batch_from_wherever_it_is_reached(threads):
    config = dataclasses.replace(SPEEDS, data=dataclasses.replace(SPEEDS.data, num_threads=threads))
    from_start = list(TrainLoader(DATASET, TOKENIZER, config).iterate())
    resumed = list(TrainLoader(DATASET, TOKENIZER, config).iterate(start_step=4))
    assert len(resumed) == len(from_start) - 4
    assert list(TrainLoader(DATASET, TOKENIZER, config).iterate(start_step=len(from_start))) == []
    again = TrainLoader(DATASET, TOKENIZER, SPEEDS)
    for step, batch in enumerate(from_start):
        assert_equal(batch, again.batch_at(step))
        if step >= 4:
            assert_equal(batch, resumed[step - 4])


def test_speeds_change_length_and_sound_as_drawn():
    loader = TrainLoader(DATASET, TOKENIZER, SPEEDS)
    ratios = set()
    for step in range(loader.num_steps):
        batch, planned = loader.batch_at(step), loader.plan.batch(*loader.locate(step))
        for row, index in enumerate(batch["index"]):
            if index >= 0:
                expected_n = change_speed(DATASET[index].wave, planned.speed_b[row], RATE_HZ)
                np.testing.assert_array_equal(batch["wave"][row, : batch["wave_lengths"][row]], expected_n)
                ratios.add(round(len(DATASET[index].wave) / len(expected_n), 2))
    assert ratios == {0.8, 1.0, 1.25}


def test_another_seed_gives_another_order():
    indices = [TrainLoader(DATASET, TOKENIZER, dataclasses.replace(CONFIG, seed=s)).batch_at(0) for s in range(4)]
    assert len({tuple(batch["index"]) for batch in indices}) > 2


def test_every_batch_spreads_over_devices_and_parts():
    loader = TrainLoader(DATASET, TOKENIZER, changed(training={"accumulate": 2}), num_devices=3)
    assert all(shape.batch_size % 6 == 0 for shape in loader.plan.shapes)
    assert all(shape.batch_size % 3 == 0 for shape in EvalLoader(DATASET, TOKENIZER, CONFIG, 3).plan.shapes)
    assert EvalLoader(DATASET, TOKENIZER, changed(training={"accumulate": 64})).plan.shapes[0].batch_size < 64


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_has_every_utterance_once_at_its_own_speed(threads):
    config = dataclasses.replace(SPEEDS, data=dataclasses.replace(SPEEDS.data, num_threads=threads, max_seconds=1.0))
    loader = EvalLoader(DATASET, TOKENIZER, config)
    batches = list(loader.iterate())
    assert len(batches) == loader.num_batches
    assert len({batch["wave"].shape for batch in batches}) == len(loader.plan.shapes) == 3
    sizes = [batch["wave"].shape[1] for batch in batches]
    assert sizes == sorted(sizes)
    lengths = {}
    for batch in batches:
        lengths |= {i: n for i, n in zip(batch["index"], batch["wave_lengths"], strict=True) if i >= 0}
    assert lengths == {i: round(s * RATE_HZ) for i, s in enumerate(DATASET.real_s)}
    for batch, again in zip(batches, loader.iterate(), strict=True):
        assert_equal(batch, again)


def test_utterances_of_other_lengths_are_left_out_and_counted(caplog):
    config = changed(data={"min_seconds": 0.7, "max_seconds": 1.5})
    with caplog.at_level(logging.INFO, logger="asr"):
        loader = TrainLoader(DATASET, TOKENIZER, config)
    seen = np.concatenate([loader.batch_at(step)["index"] for step in range(loader.steps_per_epoch)])
    wanted = np.flatnonzero((DATASET.real_s >= 0.7) & (DATASET.real_s <= 1.5))
    np.testing.assert_array_equal(np.sort(seen[seen >= 0]), wanted)
    np.testing.assert_array_equal(loader.kept, wanted)
    assert "2 training utterances shorter than data.min_seconds = 0.7 and 1 longer" in caplog.text
    for batch in loader.iterate():
        for row in np.flatnonzero(batch["index"] >= 0):  # its sound and its text are its own
            assert batch["wave"][row, 0] == np.float32(0.01 * (batch["index"][row] + 1))
            assert batch["token_lengths"][row] == batch["index"][row] % 5 + 2


def test_nothing_is_said_where_nothing_is_left_out(caplog):
    with caplog.at_level(logging.INFO, logger="asr"):
        TrainLoader(DATASET, TOKENIZER, changed(features={"lfr_n": 1}))
    assert not caplog.records


def test_a_data_set_of_which_nothing_is_left_is_refused():
    with pytest.raises(UserError, match="no training utterance is left: 13 .* shorter than data.min_seconds = 9"):
        TrainLoader(DATASET, TOKENIZER, changed(data={"min_seconds": 9.0}))


def test_more_tokens_than_frames_are_a_warning(caplog):
    crowded = Numbered([0.2] * 5 + [1.0])  # 3 stacked frames, up to 6 tokens
    with caplog.at_level(logging.WARNING, logger="asr"):
        TrainLoader(crowded, TOKENIZER, CONFIG)
    assert "3 training utterances have more tokens than frames, such as line 2 with 4 tokens" in caplog.text


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_in_a_thread_arrives_with_the_files_name(threads):
    config = changed(data={"num_threads": threads})
    dataset = Numbered(DATASET.real_s, damaged=5)
    with pytest.raises(UserError) as in_evaluation:
        list(EvalLoader(dataset, TOKENIZER, config).iterate())
    with pytest.raises(UserError) as in_training:
        list(TrainLoader(dataset, TOKENIZER, config).iterate())
    assert str(in_evaluation.value) == str(in_training.value) == "sound_5.wav: damaged"


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_a_sound_may_be_a_little_longer_than_stated_and_is_never_cut(speed):
    config = changed(data={"augment": AugmentConfig(speeds=(speed,))})
    for stated_s in np.arange(0.5, 0.6, 0.01):  # shapes come in steps of 0.1 s
        real_s = stated_s + TOLERANCE_S - 1e-9
        batch = TrainLoader(Numbered([real_s], stated_s=[stated_s]), TOKENIZER, config).batch_at(0)
        assert batch["wave_lengths"][0] == round(round(real_s * RATE_HZ) / speed)


def test_a_sound_that_is_longer_than_stated_is_named_with_both_lengths():
    dataset = Numbered([1.0, 1.0, 1.2], stated_s=[1.0, 1.0, 0.9])
    with pytest.raises(UserError, match=r"line 2: stated to be 0\.90 s long, but the sound has 1\.20 s"):
        list(TrainLoader(dataset, TOKENIZER, CONFIG).iterate())


def test_threads_end_with_the_iterator():
    before = set(threading.enumerate())
    iterator = TrainLoader(DATASET, TOKENIZER, CONFIG).iterate()
    next(iterator)
    started = set(threading.enumerate()) - before
    assert len(started) == CONFIG.data.num_threads
    iterator.close()
    for thread in started:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_generated_speech_is_loaded():
    config = changed(data={"toy": ToyConfig(num_train=6, num_val=3)})
    train_set = build_dataset(config, "train")
    tokenizer = build_tokenizer(config.tokenizer, train_set.texts())
    batches = list(TrainLoader(train_set, tokenizer, config).iterate())
    assert np.sort(np.concatenate([b["index"][b["index"] >= 0] for b in batches])).tolist() == sorted([*range(6)] * 3)
    assert len(build_dataset(config, "val")) == 3
    assert build_dataset(dataclasses.replace(config, seed=1), "train").texts() != train_set.texts()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u: (u.wave, u.text), "expected an asr.Utterance, found tuple"),
        (lambda u: None, "expected an asr.Utterance, found NoneType"),
        (lambda u: dataclasses.replace(u, name=3), "expected its name as str, found int"),
        (lambda u: dataclasses.replace(u, text=None), "expected its text as str, found NoneType"),
        (lambda u: dataclasses.replace(u, wave=u.wave.tolist()), r"expected a wave float32\[n\], found list"),
        (lambda u: dataclasses.replace(u, wave=np.float64(u.wave)), "expected a wave .*found float64"),
        (lambda u: dataclasses.replace(u, wave=u.wave[:, None]), r"expected a wave .*found float32\[\d+, 1\]"),
        (lambda u: dataclasses.replace(u, sample_rate_hz=16000), "expected sound of 8000 Hz, .* found 16000"),
    ],
)
def test_a_malformed_utterance_is_refused_wherever_it_is_in_the_data_set(change, message):
    class Malformed(Numbered):
        def __getitem__(self, index):
            utterance = super().__getitem__(index)
            return change(utterance) if index == 5 else utterance

    config = changed(data={"num_threads": 0})
    with pytest.raises(UserError, match=rf"^Malformed\[5\]: {message}"):
        list(TrainLoader(Malformed(DATASET.real_s), TOKENIZER, config).iterate())
    with pytest.raises(UserError, match=rf"^Malformed\[5\]: {message}"):
        list(EvalLoader(Malformed(DATASET.real_s), TOKENIZER, config).iterate())
