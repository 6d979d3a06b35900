"""Metrics against loops over pixels, exactness of the counts, and the rules for classes that do not occur."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.classes import IGNORE_LABEL
from seg.errors import UserError
from seg.metrics import compute_metrics, confusion_matrix, format_table, warn_never_predicted

DOCUMENT = Path(__file__).parents[1] / "docs" / "losses_and_metrics.md"
NAMES = ("sky", "building", "pole", "bicyclist", "never")


def make_masks(seed=0, shape=(3, 11, 7), num_classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, shape).astype(np.int32)
    predicted = np.where(rng.random(shape) < 0.5, labels, rng.integers(0, num_classes, shape)).astype(np.int32)
    labels[rng.random(shape) < 0.2] = IGNORE_LABEL
    return predicted, labels


def slow_matrix(predicted, labels, num_classes):
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for p, t in zip(predicted.ravel(), labels.ravel(), strict=True):
        if t != IGNORE_LABEL:
            matrix[t, p] += 1
    return matrix


def as_matrix(predicted, labels, num_classes=5):
    return np.asarray(confusion_matrix(predicted, labels, num_classes), np.int64)


# ---- the matrix ----


@pytest.mark.parametrize("num_classes", [2, 5, 19, 254])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 11, 7)])
def test_matrix_equals_a_loop_over_pixels(num_classes, shape):
    predicted, labels = make_masks(1, shape, num_classes)
    matrix = confusion_matrix(predicted, labels, num_classes)
    assert matrix.dtype == jnp.int32
    np.testing.assert_array_equal(matrix, slow_matrix(predicted, labels, num_classes))


def test_rows_are_truth_and_columns_prediction():
    matrix = confusion_matrix(np.ones((1, 2, 2), np.int32), np.zeros((1, 2, 2), np.int32), 2)
    np.testing.assert_array_equal(matrix, [[0, 4], [0, 0]])


def test_counts_are_exact_beyond_the_integers_of_float32():
    size = 2**24 + 3  # float32 cannot count one by one beyond 2^24
    labels = np.zeros((1, 1, size), np.uint8)
    np.testing.assert_array_equal(confusion_matrix(labels, labels, 2), [[size, 0], [0, 0]])


def test_operations_do_not_grow_with_the_number_of_classes():
    pixels = jax.ShapeDtypeStruct((2, 128, 128), jnp.int32)
    flops = [confusion_matrix.lower(pixels, pixels, k).compile().cost_analysis()["flops"] for k in (2, 100)]
    assert flops[1] < 2 * flops[0], "a product of one-hot matrices would take 1,000 times as many"


def test_ignored_pixels_count_nowhere_whatever_is_predicted_there():
    predicted, labels = make_masks()
    changed = np.where(labels == IGNORE_LABEL, 99, predicted).astype(np.int32)
    np.testing.assert_array_equal(as_matrix(changed, labels), as_matrix(predicted, labels))
    assert as_matrix(predicted, labels).sum() == (labels != IGNORE_LABEL).sum()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_metrics_do_not_depend_on_the_batches(batch_size):
    predicted, labels = make_masks(shape=(5, 9, 8))
    total = np.zeros((5, 5), np.int64)
    for start in range(0, 5, batch_size):
        part = slice(start, start + batch_size)
        missing = batch_size - len(labels[part])  # the last batch is filled up with ignored images
        fill = ((0, missing), (0, 0), (0, 0))
        total += as_matrix(np.pad(predicted[part], fill), np.pad(labels[part], fill, constant_values=IGNORE_LABEL))
    np.testing.assert_array_equal(total, slow_matrix(predicted, labels, 5))


@pytest.mark.parametrize(("where", "value"), [("labels", 5), ("labels", 254), ("labels", -1), ("predicted", 5)])
def test_impossible_values_are_refused_and_not_dropped(where, value):
    predicted, labels = make_masks()
    place = tuple(np.argwhere(labels != IGNORE_LABEL)[0])
    (labels if where == "labels" else predicted)[place] = value
    total = as_matrix(predicted, labels) + as_matrix(*make_masks(1))  # a good batch does not cover it up
    with pytest.raises(UserError, match="seg.check"):
        compute_metrics(total)


def test_a_batch_that_could_overflow_is_refused():
    huge = jax.ShapeDtypeStruct((2, 2**15, 2**15), jnp.int32)
    with pytest.raises(ValueError, match="overflow"):
        jax.eval_shape(lambda p, t: confusion_matrix(p, t, 2), huge, huge)


# ---- the metrics ----


def test_every_metric_equals_its_definition_over_sets_of_pixels():
    predicted, labels = make_masks()
    metrics = compute_metrics(as_matrix(predicted, labels))
    kept = labels != IGNORE_LABEL
    p, t = predicted[kept], labels[kept]
    for k in range(5):
        both, either = np.sum((p == k) & (t == k)), np.sum((p == k) | (t == k))
        assert metrics.iou[k] == pytest.approx(both / either)
        assert metrics.dice[k] == pytest.approx(2 * both / (np.sum(p == k) + np.sum(t == k)))
        assert metrics.precision[k] == pytest.approx(np.mean(t[p == k] == k))
        assert metrics.recall[k] == pytest.approx(np.mean(p[t == k] == k))
        assert metrics.true_share[k] == pytest.approx(np.mean(t == k))
        assert metrics.predicted_share[k] == pytest.approx(np.mean(p == k))
    assert metrics.pixel_accuracy == pytest.approx(np.mean(p == t))
    assert metrics.mean_iou == pytest.approx(metrics.iou.mean())
    assert metrics.mean_dice == pytest.approx(metrics.dice.mean())
    assert metrics.mean_accuracy == pytest.approx(metrics.recall.mean())
    assert metrics.frequency_weighted_iou == pytest.approx(np.average(metrics.iou, weights=metrics.true_share))
    assert metrics.num_pixels == kept.sum()


def test_a_class_absent_from_truth_and_prediction_is_left_out_of_every_mean():
    matrix = np.array([[5, 1, 0], [2, 4, 0], [0, 0, 0]], np.int64)
    with_absent, without = compute_metrics(matrix), compute_metrics(matrix[:2, :2])
    for name in ("iou", "dice", "precision", "recall"):
        assert np.isnan(getattr(with_absent, name)[2])
    for name in ("mean_iou", "mean_dice", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        assert getattr(with_absent, name) == getattr(without, name)


def test_a_class_absent_from_the_truth_only_counts_as_zero():
    metrics = compute_metrics(np.array([[6, 2], [0, 0]], np.int64))
    np.testing.assert_allclose(metrics.iou, [0.75, 0])
    assert np.isnan(metrics.recall[1]) and metrics.precision[1] == 0
    assert metrics.mean_iou == 0.375 and metrics.mean_accuracy == 0.75


def test_all_background_predictions_do_not_look_good():
    metrics = compute_metrics(np.array([[990, 0], [10, 0]], np.int64))
    assert metrics.pixel_accuracy == 0.99
    assert metrics.iou[1] == metrics.dice[1] == metrics.recall[1] == metrics.predicted_share[1] == 0
    assert np.isnan(metrics.precision[1])
    assert metrics.mean_iou == 0.495


def test_no_counted_pixel_gives_nan_without_a_warning():
    metrics = compute_metrics(np.zeros((3, 3), np.int64))
    assert np.isnan(metrics.mean_iou) and np.isnan(metrics.pixel_accuracy) and metrics.num_pixels == 0
    assert np.isnan(metrics.frequency_weighted_iou)
    assert metrics.to_dict(NAMES[:3])["mean_iou"] is None
    assert "–" in format_table(metrics, NAMES[:3])


def test_sums_beyond_int32_are_right():
    metrics = compute_metrics(np.array([[3 * 2**40, 2**40], [0, 2**40]], np.int64))
    np.testing.assert_allclose(metrics.iou, [0.75, 0.5])


def test_sums_that_are_not_int64_are_refused():
    with pytest.raises(AssertionError):
        compute_metrics(np.zeros((2, 2), np.int32))


# ---- how they are shown ----


def example_metrics():
    matrix = slow_matrix(*make_masks(num_classes=4), 5)
    matrix[3] += matrix[:, 3]
    matrix[:, 3] = 0  # class 3 is never predicted, class 4 does not occur
    return compute_metrics(matrix)


def test_dictionary_is_strict_json_with_every_class():
    metrics = example_metrics()
    found = json.loads(json.dumps(metrics.to_dict(NAMES), allow_nan=False))
    assert found["mean_iou"] == metrics.mean_iou and found["num_pixels"] == metrics.num_pixels
    assert [c["name"] for c in found["classes"]] == list(NAMES)
    assert found["classes"][0]["iou"] == metrics.iou[0] and found["classes"][3]["predicted_share"] == 0
    assert found["classes"][4]["iou"] is None


def test_table_is_aligned_and_complete():
    metrics = example_metrics()
    table, summary = (part.splitlines() for part in format_table(metrics, NAMES).split("\n\n"))
    assert re.split(r"  +", table[0].strip()) == [
        "class", "IoU", "Dice", "precision", "recall", "true %", "predicted %",
    ]  # fmt: skip
    assert len({len(line) for line in table}) == len({len(line) for line in summary}) == 1
    rows = [line.split() for line in table[1:]]
    assert [row[0] for row in rows] == list(NAMES)
    assert rows[0][1] == f"{metrics.iou[0]:.4f}" and rows[0][5] == f"{100 * metrics.true_share[0]:.2f}"
    assert rows[3][3] == "–" and rows[3][6] == "0.00" and rows[4][1:5] == ["–"] * 4
    assert summary[0].split() == ["mean", "IoU", f"{metrics.mean_iou:.4f}"]
    assert summary[-1].split() == ["pixels", "counted", f"{metrics.num_pixels:,}"]


def test_names_must_fit_the_classes():
    for show in (example_metrics().to_dict, lambda names: format_table(example_metrics(), names)):
        with pytest.raises(AssertionError):
            show(NAMES[:4])


def test_the_documented_example_is_a_metric():
    code = re.search(r"```python\n(# kappa.*?)```", DOCUMENT.read_text(), re.DOTALL).group(1)
    namespace = {}
    exec(code, namespace)
    kappa = namespace["cohens_kappa"]
    assert kappa(np.array([[20, 5], [10, 15]], np.int64)) == pytest.approx(0.4)  # the textbook's table
    assert kappa(np.array([[3, 0], [0, 9]], np.int64)) == 1


def test_a_class_that_is_never_predicted_is_named_with_its_share():
    matrix_kk = np.array([[970, 0, 5, 0], [7, 0, 0, 0], [0, 0, 18, 0], [0, 0, 0, 0]], np.int64)
    names = ("background", "lesion", "vessel", "absent")
    (warning,) = warn_never_predicted(compute_metrics(matrix_kk), names)
    assert "never predicted: lesion (0.70% of the pixels)." in warning
    matrix_kk[0, 1] = 1
    assert warn_never_predicted(compute_metrics(matrix_kk), names) == []
    assert warn_never_predicted(compute_metrics(np.zeros((4, 4), np.int64)), names) == []
