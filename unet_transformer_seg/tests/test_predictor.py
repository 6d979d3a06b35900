import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.classes import make_class_table
from seg.config import Config, DataConfig, InferenceConfig, ModelConfig
from seg.config.schema import IMAGENET
from seg.errors import UserError
from seg.inference import predictor as module
from seg.inference.predictor import Predictor, load_predictor
from seg.models import build_model
from seg.ops import cpu_conv
from seg.ops.resize import resize_bilinear
from seg.ops.winograd import winograd_conv
from tiny_model import random_variables

CLASSES = make_class_table(("sky", "road", "tree"))


def tiny_config(fit="crop", **inference):
    return Config(
        model=ModelConfig(name="unet", num_classes=3, base_width=8, depth=2),
        data=DataConfig(size=(32, 24), fit=fit),
        inference=InferenceConfig(batch_size=3, **inference),
    )


VARIABLES = random_variables(tiny_config().model, (32, 24))
apply = jax.jit(lambda variables, x: build_model(tiny_config().model).apply(variables, x, train=False))


@functools.cache
def make_predictor(**settings):
    """Compiled once for all tests with these settings."""
    return Predictor(tiny_config(**settings), CLASSES, VARIABLES)


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def model_probabilities(image_hwc):
    """Return softmax(model((x/255 − mean)/std)), written out."""
    x_hwc = (image_hwc / np.float32(255) - np.float32(IMAGENET[0])) / np.float32(IMAGENET[1])
    return np.asarray(jax.nn.softmax(apply(VARIABLES, x_hwc[None])[0]))


def whole(predictor, image_hwc):
    return np.concatenate([band.probabilities for band in predictor.predict_bands(image_hwc)])


def test_an_image_of_one_window_is_the_model_itself():
    image_hwc, predictor = random_image(32, 24), make_predictor()
    expected_hwk = model_probabilities(image_hwc)
    np.testing.assert_allclose(whole(predictor, image_hwc), expected_hwk, atol=1e-5)
    np.testing.assert_array_equal(predictor.predict(image_hwc).labels, expected_hwk.argmax(-1))
    assert predictor.predict(image_hwc).labels.dtype == np.uint8
    assert len(np.unique(predictor.predict(image_hwc).labels)) > 1  # else the comparison says little


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_two_windows_are_blended_by_their_gaussians(axis):
    side = (32, 24)[axis]
    half = side // 2
    image_hwc = random_image(*((48, 24), (32, 36))[axis])
    first_hwc, second_hwc = (np.take(image_hwc, np.arange(start, start + side), axis) for start in (0, half))
    bell = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
    share = bell[:half] / (bell[:half] + bell[half:])  # of the second window where both see the pixel
    share = share[:, None, None] if axis == 0 else share[None, :, None]
    first_hwk, second_hwk = model_probabilities(first_hwc), model_probabilities(second_hwc)
    (first, seen_first), (seen_second, second) = (np.split(x, 2, axis) for x in (first_hwk, second_hwk))
    expected_hwk = np.concatenate([first, (1 - share) * seen_first + share * seen_second, second], axis)
    assert abs(seen_first - seen_second).max() > 0.01  # else the comparison says little
    np.testing.assert_allclose(whole(make_predictor(), image_hwc), expected_hwk, atol=1e-5)


def test_mask_and_probabilities_agree_on_a_large_image():
    image_hwc, predictor = random_image(70, 50), make_predictor()
    np.testing.assert_array_equal(predictor.predict(image_hwc).labels, whole(predictor, image_hwc).argmax(-1))


def test_mirror_averages_the_probabilities_of_both_sides():
    image_hwc = random_image(32, 24)
    plain_hwk, mirrored_hwk = model_probabilities(image_hwc), model_probabilities(image_hwc[:, ::-1])[:, ::-1]
    expected_hwk = (plain_hwk + mirrored_hwk) / 2
    assert abs(plain_hwk - mirrored_hwk).max() > 0.05  # else the comparison says little
    predictor = make_predictor(mirror=True)
    np.testing.assert_allclose(whole(predictor, image_hwc), expected_hwk, atol=1e-5)
    np.testing.assert_array_equal(
        predictor.predict(image_hwc[:, ::-1]).labels, predictor.predict(image_hwc).labels[:, ::-1]
    )


def test_winograds_algorithm_changes_the_program_and_not_the_answer(monkeypatch):
    monkeypatch.setattr(cpu_conv, "WIDE", 8)
    jax.clear_caches()  # traces made with the usual limit
    calls, image_hwc = [], random_image(32, 24)
    monkeypatch.setattr(cpu_conv, "winograd_conv", lambda *arrays: calls.append(1) or winograd_conv(*arrays))
    answers = []
    for chosen in (False, True):
        answers.append(whole(Predictor(tiny_config(winograd=chosen), CLASSES, VARIABLES), image_hwc))
        assert bool(calls) == chosen
    np.testing.assert_allclose(*answers, atol=1e-5)
    jax.clear_caches()


def test_scales_average_the_probabilities_at_each_size():
    image_hwc = random_image(32, 24)
    x_bhwc = jnp.asarray(image_hwc, jnp.float32)[None]
    halved_hwc = resize_bilinear(x_bhwc, size=(16, 12))[0]
    small_bhwk = jnp.asarray(model_probabilities(np.asarray(halved_hwc)))[None]
    expected_hwk = (model_probabilities(image_hwc) + resize_bilinear(small_bhwk, size=(32, 24))[0]) / 2
    assert abs(expected_hwk - model_probabilities(image_hwc)).max() > 0.05  # else the comparison says little
    np.testing.assert_allclose(whole(make_predictor(scales=(0.5, 1.0)), image_hwc), expected_hwk, atol=1e-5)
    np.testing.assert_array_equal(whole(make_predictor(scales=(1.0,)), image_hwc), whole(make_predictor(), image_hwc))


@pytest.mark.parametrize("fit", ["crop", "resize"])
@pytest.mark.parametrize("size", [(1, 1), (31, 24), (9, 70), (100, 47)])
def test_any_size(size, fit):
    image_hwc = random_image(*size)
    mask_hw = make_predictor(fit=fit).predict(image_hwc).labels
    assert mask_hw.shape == size
    if size == (31, 24):  # in training the last row is black
        filled_hwc = np.concatenate([image_hwc, np.zeros((1, 24, 3), np.uint8)])
        np.testing.assert_array_equal(mask_hw, model_probabilities(filled_hwc)[:31].argmax(-1))


def test_many_images_come_in_order_and_equal_one_at_a_time():
    predictor = make_predictor()
    sizes = [(32, 24), (20, 24), (40, 40), (32, 24), (32, 10), (5, 5), (32, 24), (33, 24)]
    items = [(i, random_image(*size, seed=i)) for i, size in enumerate(sizes)]
    results = list(predictor.predict_many(iter(items)))
    assert [tag for tag, _, _ in results] == list(range(len(sizes)))
    for (_, image_hwc), (_, returned_hwc, mask_hw) in zip(items, results, strict=True):
        assert returned_hwc is image_hwc
        np.testing.assert_array_equal(mask_hw, predictor.predict(image_hwc).labels)


def test_no_compilation_for_new_sizes(caplog):
    predictor = Predictor(tiny_config(), CLASSES, VARIABLES)
    images = [random_image(*size) for size in [(60, 60), (9, 9), (60, 60), (9, 9), (8, 8), (7, 7)]]
    list(predictor.predict_many(enumerate(images)))  # many windows, a single one, a full batch of small images
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for size in [(32, 24), (11, 13), (33, 24), (100, 20), (64, 64)]:
            predictor.predict(random_image(*size))
        list(predictor.predict_many([(i, random_image(20 + i, 20)) for i in range(5)]))
    assert not [record.message for record in caplog.records if "ompil" in record.message]


@pytest.mark.parametrize("size", [(20, 17), (45, 40)], ids=["smaller than the window", "larger"])
def test_an_image_that_is_computed_whole_is_the_model_itself_at_its_size(size):
    image_hwc, predictor = random_image(*size), make_predictor(whole_up_to=45 * 40)
    expected_hwk = model_probabilities(image_hwc)
    np.testing.assert_allclose(whole(predictor, image_hwc), expected_hwk, atol=1e-5)
    np.testing.assert_array_equal(predictor.predict(image_hwc).labels, expected_hwk.argmax(-1))
    assert abs(whole(make_predictor(), image_hwc) - expected_hwk).max() > 0.01  # by windows it would be another


def test_larger_images_go_by_windows_and_all_come_in_order():
    predictor, by_windows = make_predictor(whole_up_to=45 * 40), make_predictor()
    image_hwc = random_image(46, 40)
    np.testing.assert_array_equal(whole(predictor, image_hwc), whole(by_windows, image_hwc))
    # Of the window's own size, of another that is computed whole, and by windows.
    sizes = [(32, 24), (20, 17), (32, 24), (32, 24), (46, 40), (20, 17), (32, 24)]
    items = [(i, random_image(*size, seed=i)) for i, size in enumerate(sizes)]
    results = list(predictor.predict_many(iter(items)))
    assert [tag for tag, _, _ in results] == list(range(len(sizes)))
    for (_, image_hwc), (_, returned_hwc, mask_hw) in zip(items, results, strict=True):
        assert returned_hwc is image_hwc
        np.testing.assert_array_equal(mask_hw, predictor.predict(image_hwc).labels)


def test_the_network_takes_bytes_only():
    with pytest.raises(AssertionError, match="uint8"):
        make_predictor().bring(np.zeros((32, 24, 3), np.float32))


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run directory or a model folder.*config\.yaml"):
        load_predictor(tmp_path)


def test_the_network_is_compiled_with_the_options_of_the_processor(monkeypatch):
    monkeypatch.setattr(module, "compiler_options", lambda: {"xla_cpu_has_no_such_option": "1"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_has_no_such_option"):
        Predictor(tiny_config(), CLASSES, VARIABLES).predict(np.zeros((32, 24, 3), np.uint8))


def test_a_predictor_is_shown_in_one_line():
    number = sum(leaf.size for leaf in jax.tree.leaves(VARIABLES["params"]))
    predictor = Predictor(tiny_config(), CLASSES, VARIABLES)
    assert repr(predictor) == f"Predictor(unet, {len(CLASSES)} classes, {number:,} parameters)"
    assert repr(Predictor(tiny_config(), CLASSES, None, windows_forward=len)).endswith("0 parameters)")
