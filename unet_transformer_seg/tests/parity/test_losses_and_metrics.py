"""The same values and gradients as torch, MONAI and torchmetrics, whose code shares nothing with ours.

MONAI's losses know no ignored pixels: they are given the counted pixels only, as an image of one row.
"""

from functools import partial

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
monai_losses = pytest.importorskip("monai.losses")
classification = pytest.importorskip("torchmetrics.classification")

from seg.classes import IGNORE_LABEL  # noqa: E402
from seg.losses import bce_loss, cross_entropy_loss, dice_loss, focal_loss, tversky_loss  # noqa: E402
from seg.metrics import compute_metrics, confusion_matrix  # noqa: E402

NUM_CLASSES = 5
WEIGHTS = np.array([0.5, 2.0, 1.0, 4.0, 0.0], np.float32)


def make_batch(ignored=0.25):
    rng = np.random.default_rng(0)
    logits = (2 * rng.normal(size=(3, 9, 7, NUM_CLASSES))).astype(np.float32)
    labels = rng.integers(0, NUM_CLASSES, (3, 9, 7))
    labels[rng.random(labels.shape) < ignored] = IGNORE_LABEL
    return logits, labels


def ours(loss, logits, labels, weights=None):
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, labels.astype(np.int32), class_weights_k=weights)
    return float(value), np.asarray(gradient)


def assert_same(ours, theirs):
    """Compare (value, gradient) with the torch scalar and its gradient at logits [b, h, w, k]."""
    value, logits = theirs
    value.backward()
    assert ours[0] == pytest.approx(value.item(), rel=2e-6)
    np.testing.assert_allclose(ours[1], logits.grad.numpy(), rtol=1e-5, atol=1e-8)


def channels_first(logits_bhwk):
    return logits_bhwk.permute(0, 3, 1, 2)


def leaf(logits):
    return torch.tensor(logits, requires_grad=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_cross_entropy(weights, smoothing):
    logits, labels = make_batch()
    z = leaf(logits)
    theirs = torch.nn.functional.cross_entropy(
        channels_first(z),
        torch.tensor(labels),
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=IGNORE_LABEL,
        label_smoothing=smoothing,
    )
    loss = partial(cross_entropy_loss, label_smoothing=smoothing)
    assert_same(ours(loss, logits, labels, weights), (theirs, z))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_binary_cross_entropy(weights):
    logits, labels = make_batch()
    z, w = leaf(logits), torch.ones(NUM_CLASSES) if weights is None else torch.tensor(weights)
    counted = torch.tensor(labels != IGNORE_LABEL)
    target = torch.nn.functional.one_hot(torch.tensor(labels)[counted], NUM_CLASSES).float()
    # torch divides by the number of terms, we by the sum of their weights
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(z[counted], target, weight=w / w.mean())
    assert_same(ours(bce_loss, logits, labels, weights), (theirs, z))


def counted_only(z, labels):
    """Return the counted pixels as logits [1, k, n] and one-hot truth [1, k, n]."""
    counted = torch.tensor(labels != IGNORE_LABEL)
    target = torch.nn.functional.one_hot(torch.tensor(labels)[counted], NUM_CLASSES).float()
    return z[counted].T[None], target.T[None]


SMOOTH = {"smooth_nr": 1e-5, "smooth_dr": 1e-5, "batch": True}


@pytest.mark.parametrize(
    ("loss", "reference", "factor"),
    [
        (dice_loss, monai_losses.DiceLoss(softmax=True, **SMOOTH), 1),
        (partial(dice_loss, probability=jax.nn.sigmoid), monai_losses.DiceLoss(sigmoid=True, **SMOOTH), 1),
        (tversky_loss, monai_losses.TverskyLoss(softmax=True, alpha=0.3, beta=0.7, **SMOOTH), 1),
        (focal_loss, monai_losses.FocalLoss(use_softmax=True, gamma=2.0), NUM_CLASSES),  # MONAI: mean over k too
    ],
    ids=["dice", "sigmoid dice", "tversky", "focal"],
)
def test_losses_of_monai(loss, reference, factor):
    logits, labels = make_batch()
    z = leaf(logits)
    assert_same(ours(loss, logits, labels), (factor * reference(*counted_only(z, labels)), z))


def test_dice_per_image():
    logits, labels = make_batch(ignored=0.0)
    z = leaf(logits)
    target = torch.nn.functional.one_hot(torch.tensor(labels), NUM_CLASSES).float()
    reference = monai_losses.DiceLoss(softmax=True, **{**SMOOTH, "batch": False})
    theirs = reference(channels_first(z), channels_first(target))
    assert_same(ours(partial(dice_loss, per_image=True), logits, labels), (theirs, z))


def reference_metric(name, predicted, labels, **settings):
    metric = getattr(classification, f"Multiclass{name}")(NUM_CLASSES, ignore_index=IGNORE_LABEL, **settings)
    for image in range(len(labels)):  # fed image by image: torchmetrics sums counts too
        metric.update(torch.tensor(predicted[image : image + 1]), torch.tensor(labels[image : image + 1]))
    return metric.compute().numpy()


def test_metrics_of_torchmetrics():
    rng = np.random.default_rng(1)
    _, labels = make_batch()
    predicted = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, NUM_CLASSES, labels.shape))
    predicted = np.where(predicted == IGNORE_LABEL, 0, predicted)
    matrix = np.asarray(confusion_matrix(predicted.astype(np.int32), labels.astype(np.int32), NUM_CLASSES), np.int64)
    metrics = compute_metrics(matrix)
    reference = partial(reference_metric, predicted=predicted, labels=labels)

    np.testing.assert_array_equal(matrix, reference("ConfusionMatrix"))
    for found, name in [
        (metrics.iou, "JaccardIndex"),
        (metrics.dice, "F1Score"),  # Dice of counts is F1
        (metrics.precision, "Precision"),
        (metrics.recall, "Recall"),
    ]:
        np.testing.assert_allclose(found, reference(name, average=None), rtol=1e-6, err_msg=name)
    for found, name, average in [
        (metrics.mean_iou, "JaccardIndex", "macro"),
        (metrics.mean_dice, "F1Score", "macro"),
        (metrics.pixel_accuracy, "Accuracy", "micro"),
        (metrics.mean_accuracy, "Accuracy", "macro"),
        (metrics.frequency_weighted_iou, "JaccardIndex", "weighted"),
    ]:
        assert found == pytest.approx(reference(name, average=average).item(), rel=1e-6), (name, average)
