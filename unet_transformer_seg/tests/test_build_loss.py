"""The losses that a config asks for: every name, every setting, every default."""

import functools
import typing

import jax
import numpy as np
import pytest

from seg.classes import IGNORE_LABEL
from seg.config import LossConfig
from seg.losses import bce_dice_loss, build_loss, ce_dice_loss, focal_loss, tversky_loss

RNG = np.random.default_rng(0)
LOGITS = (2 * RNG.normal(size=(2, 3, 4, 4))).astype(np.float32)
LABELS = RNG.integers(0, 4, (2, 3, 4)).astype(np.int32)
LABELS[0] = np.where(LABELS[0] == 3, IGNORE_LABEL, LABELS[0])  # class 3 occurs in the second image only
WEIGHTS = np.array([0.5, 2.0, 1.0, 4.0], np.float32)


@functools.cache
def value_of(loss):
    return float(jax.jit(loss)(LOGITS, LABELS))


@functools.cache
def built(name, **settings):
    """Return the loss of a config, computed in one program."""
    return value_of(build_loss(LossConfig(name=name, **settings)))


NAMES = [name for name in typing.get_args(typing.get_type_hints(LossConfig)["name"]) if name != "custom"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_the_config_builds_a_loss_that_minds_its_weights(name):
    value = built(name)
    assert np.isfinite(value) and value > 0
    assert value_of(build_loss(LossConfig(name=name), WEIGHTS)) != value


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cross_entropy", {"label_smoothing": 0.3}),
        ("ce_dice", {"label_smoothing": 0.3}),
        ("ce_dice", {"dice_weight": 0.3}),
        ("ce_dice", {"dice_per_image": True}),
        ("bce_dice", {"dice_weight": 0.3}),
        ("bce_dice", {"dice_per_image": True}),
        ("dice", {"dice_per_image": True}),
        ("focal", {"focal_gamma": 0.7}),
        ("tversky", {"tversky_alpha": 0.9}),
        ("tversky", {"tversky_beta": 0.1}),
        ("tversky", {"dice_per_image": True}),
    ],
)
def test_every_setting_reaches_its_loss(name, settings):
    assert abs(built(name) - built(name, **settings)) > 1e-4


def test_config_defaults_are_those_of_the_functions():
    functions = {"focal": focal_loss, "tversky": tversky_loss, "ce_dice": ce_dice_loss, "bce_dice": bce_dice_loss}
    for name, loss in functions.items():
        assert built(name) == value_of(loss)


def test_a_name_without_a_case_is_refused():
    with pytest.raises(ValueError, match="no case in seg.losses.build_loss"):
        build_loss(LossConfig(name="hinge"))
