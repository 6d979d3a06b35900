"""The losses that a config asks for: every name, every setting, every default."""

import typing

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


NAMES = [name for name in typing.get_args(typing.get_type_hints(LossConfig)["name"]) if name != "custom"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_the_config_builds_a_loss_that_minds_its_weights(name):
    logits, labels = LOGITS, LABELS
    value = build_loss(LossConfig(name=name))(logits, labels)
    assert np.isfinite(value) and value > 0
    assert build_loss(LossConfig(name=name), WEIGHTS)(logits, labels) != value


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
    logits, labels = LOGITS, LABELS
    plain, changed = LossConfig(name=name), LossConfig(name=name, **settings)
    assert abs(build_loss(plain)(logits, labels) - build_loss(changed)(logits, labels)) > 1e-4


def test_config_defaults_are_those_of_the_functions():
    logits, labels = LOGITS, LABELS
    functions = {"focal": focal_loss, "tversky": tversky_loss, "ce_dice": ce_dice_loss, "bce_dice": bce_dice_loss}
    for name, loss in functions.items():
        assert build_loss(LossConfig(name=name))(logits, labels) == loss(logits, labels)


def test_a_name_without_a_case_is_refused():
    with pytest.raises(ValueError, match="no case in seg.losses.build_loss"):
        build_loss(LossConfig(name="hinge"))
