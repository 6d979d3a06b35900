"""Exclusive and overlapping labels: probabilities, decisions, counts, and the choice of thresholds."""

import numpy as np
import pytest

from seg.config import Config, InferenceConfig, ModelConfig
from seg.errors import UserError
from seg.labels import GRID, Overlapping, build_labels
from seg.metrics import compute_metrics, count_levels, count_levels_on_host, format_table, warn_never_predicted

NAMES = ("road", "car", "rain")


def make_masks(seed=0, shape=(2, 9, 8, 3)):
    rng = np.random.default_rng(seed)
    labels = (rng.random(shape) < [0.6, 0.2, 0.1]).astype(np.uint8)
    probabilities = np.clip(0.25 * labels + rng.random(shape) * 0.6, 0, 1).astype(np.float32)
    labels[rng.random(shape) < 0.15] = 255
    return probabilities, labels


def slow_counts(decided, labels):
    counts = np.zeros((labels.shape[-1], 2, 2), np.int64)
    for place in np.ndindex(labels.shape):
        if labels[place] != 255:
            counts[place[-1], labels[place], decided[place]] += 1
    return counts


def slow_dice(counts):
    return [2 * c[1, 1] / max(2 * c[1, 1] + c[0, 1] + c[1, 0], 1) for c in counts]


def config_of(*thresholds):
    return Config(model=ModelConfig(labels="overlapping"), inference=InferenceConfig(thresholds=thresholds))


def test_levels_are_counted_alike_on_device_and_host():
    probabilities, labels = make_masks()
    levels = Overlapping([GRID] * 3).decide(probabilities)
    counts = np.asarray(count_levels(levels, labels, len(GRID) + 1))
    np.testing.assert_array_equal(
        sum(count_levels_on_host(m, x, 20) for m, x in zip(labels, levels, strict=True)), counts
    )
    assert counts.sum() == (labels != 255).sum()
    for j, threshold in enumerate(GRID):
        reached = counts[:, :, j + 1 :].sum(-1)
        np.testing.assert_array_equal(
            reached, slow_counts((probabilities >= np.float32(threshold)) * 1, labels)[..., 1]
        )


def test_a_label_that_is_neither_0_nor_1_is_refused():
    labels = np.full((1, 2, 2, 1), 2, np.uint8)
    with pytest.raises(UserError, match="labels 0 and 1"):
        compute_metrics(np.asarray(count_levels(np.zeros_like(labels), labels, 2), np.int64))
    with pytest.raises(UserError, match="label 2, overlapping classes have 0, 1, or 255"):
        count_levels_on_host(labels[0], np.zeros_like(labels[0]), 2)


def test_the_threshold_of_the_largest_dice_is_chosen_for_each_class():
    probabilities, labels = make_masks()
    grid = build_labels(config_of(), 3, choose=True)
    levels = grid.decide(probabilities)
    chosen, counts = grid.settle(np.asarray(grid.count(levels, labels), np.int64))
    decided = chosen.decide(probabilities)
    np.testing.assert_array_equal(counts, slow_counts(decided, labels))
    np.testing.assert_array_equal(grid.settled(levels, chosen), decided)
    dices = [slow_dice(slow_counts((probabilities >= np.float32(t)) * 1, labels)) for t in GRID]
    np.testing.assert_allclose(slow_dice(counts), np.max(dices, axis=0))
    assert set(chosen.thresholds) <= set(GRID) and len(set(chosen.thresholds)) > 1


def test_without_a_true_pixel_or_a_difference_the_threshold_is_a_half():
    probabilities, labels = make_masks()
    labels[..., 1], probabilities[..., 2] = 0, labels[..., 2] == 1
    grid = build_labels(config_of(), 3, choose=True)
    chosen, _ = grid.settle(np.asarray(grid.count(grid.decide(probabilities), labels), np.int64))
    assert chosen.thresholds[1:] == (0.5, 0.5)


def test_a_stated_threshold_is_not_chosen_anew():
    probabilities, labels = make_masks()
    stated = build_labels(config_of(0.1, 0.123, 0.9), 3, choose=True)
    decided = stated.decide(probabilities)
    np.testing.assert_array_equal(decided, probabilities >= np.float32([0.1, 0.123, 0.9]))
    chosen, counts = stated.settle(np.asarray(stated.count(decided, labels), np.int64))
    assert chosen.thresholds == (0.1, 0.123, 0.9)
    np.testing.assert_array_equal(counts, slow_counts(decided, labels))
    with pytest.raises(UserError, match="thresholds: expected a number for each of 2 classes, found 3"):
        build_labels(config_of(0.1, 0.2, 0.3), 2)


def test_a_shift_multiplies_the_odds_of_a_class():
    logits_bhwk = np.random.default_rng(0).normal(size=(1, 5, 7, 3)).astype(np.float32)
    config = Config(inference=InferenceConfig(logit_shift=(0.0, 2.0, -1.0)))
    plain, shifted = (build_labels(c, 3).probabilities(logits_bhwk) for c in (Config(), config))
    np.testing.assert_allclose(shifted.sum(-1), 1, rtol=1e-6)
    odds = (shifted / shifted[..., :1]) / (plain / plain[..., :1])
    np.testing.assert_allclose(odds, np.broadcast_to(np.exp([0.0, 2.0, -1.0]), odds.shape), rtol=1e-4)
    with pytest.raises(UserError, match=r"logit_shift: expected a number for each of 2 classes, found 3"):
        build_labels(config, 2)


def test_planes_and_pixels_give_the_same_decision():
    probabilities = make_masks()[0][0]
    for labels in (build_labels(Config(), 3), build_labels(config_of(0.2, 0.3, 0.4), 3)):
        np.testing.assert_array_equal(
            labels.decide_planes(np.moveaxis(probabilities, -1, 0)), labels.decide(probabilities)
        )


def test_metrics_of_each_class_come_from_its_own_counts():
    counts = np.array([[[50, 10], [20, 20]], [[99, 0], [1, 0]], [[80, 0], [0, 0]]], np.int64)
    metrics = compute_metrics(counts)
    np.testing.assert_allclose(metrics.iou, [20 / 50, 0, np.nan])
    np.testing.assert_allclose(metrics.dice, [40 / 70, 0, np.nan])
    np.testing.assert_allclose(metrics.precision, [20 / 30, np.nan, np.nan])
    np.testing.assert_allclose(metrics.recall, [20 / 40, 0, np.nan])
    np.testing.assert_allclose(metrics.true_share, [0.4, 0.01, 0])
    assert metrics.mean_iou == pytest.approx(0.2) and metrics.pixel_accuracy == pytest.approx(249 / 280)
    assert metrics.frequency_weighted_iou == pytest.approx(0.4 * 40 / 41) and metrics.num_pixels == 100
    assert metrics.to_dict(NAMES)["classes"][2] == {
        "name": "rain",
        "iou": None,
        "dice": None,
        "precision": None,
        "recall": None,
        "true_share": 0.0,
        "predicted_share": 0.0,
    }
    assert "car (1.00% of the pixels)" in warn_never_predicted(metrics, NAMES)[0]
    assert "mean IoU" in format_table(metrics, NAMES)


def test_ignored_pixels_of_many_classes_fall_on_no_other_count():
    rng = np.random.default_rng(3)
    labels, decided = rng.integers(0, 2, (2, 1, 5, 6, 20), np.uint8)
    labels[rng.random(labels.shape) < 0.3] = 255
    np.testing.assert_array_equal(count_levels(decided, labels, 2), slow_counts(decided, labels))
