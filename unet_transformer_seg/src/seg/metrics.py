"""Segmentation metrics, all from summed pixel counts.

The device turns each batch into counts, the host adds them up, and every metric is a ratio of these sums. Nothing is
averaged over batches or images, so the batch size cannot change a result. To add a metric, write a function of the
counts; docs/losses_and_metrics.md shows how.

Exclusive classes are counted in one matrix, `matrix_kk` [true class, predicted class]. Overlapping classes are counted
one by one, `counts_k22` [class, is true, is predicted].

Letters: b batch, h w pixels, k classes, n levels of probability.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np

from seg.classes import IGNORE_LABEL
from seg.errors import UserError

_NUM_COPIES = 32  # partial histograms that neighbouring pixels are spread over; see `confusion_matrix`
MAX_NAMED = 5  # classes that a warning names

_IMPOSSIBLE = np.iinfo(np.int32).min


@partial(jax.jit, static_argnames="num_classes")
def confusion_matrix(predicted_bhw: jax.Array, labels_bhw: jax.Array, num_classes: int) -> jax.Array:
    """Return int32[k, k], [true, predicted]: how many pixels of each true class were predicted as each class.

    Counting is a scatter-add of ones in int32: exact, and its cost does not grow with the number of classes. (A
    product of one-hot matrices is exact in float32 only up to 2^24 pixels a sum, and its cost grows with k².) As
    neighbouring pixels mostly fall on the same count, 32 copies of the histogram are filled in turn and added up:
    threads of a GPU that work side by side do not wait for one address, and a CPU need not finish one addition
    before it starts the next.

    The sum over batches belongs on the host, in int64: an int32 count is full after 2^31 − 1 pixels, about 8,000
    images of 512 × 512.

    Args:
        predicted_bhw: integer[b, h, w], 0…k−1; at ignored pixels anything.
        labels_bhw: integer[b, h, w], 0…k−1, or 255 where ignored. Any other label or prediction makes all entries
            −2^31, which `compute_metrics` refuses; it would otherwise vanish from the result unseen.
        num_classes: k.
    """
    chex.assert_rank(predicted_bhw, 3)
    chex.assert_equal_shape([predicted_bhw, labels_bhw])
    chex.assert_type([predicted_bhw, labels_bhw], int)
    if labels_bhw.size >= 2**31:
        raise ValueError(f"a batch of {labels_bhw.size} pixels can overflow int32 counts; use smaller batches")
    predicted_n, label_n = (x.reshape(-1).astype(jnp.int32) for x in (predicted_bhw, labels_bhw))
    counted_n = label_n != IGNORE_LABEL
    in_range_n = (label_n >= 0) & (label_n < num_classes) & (predicted_n >= 0) & (predicted_n < num_classes)
    num_bins = num_classes**2 + 1  # the last one takes what is not counted
    bin_n = jnp.where(counted_n & in_range_n, label_n * num_classes + predicted_n, num_bins - 1)
    matrix_kk = _histogram(bin_n, num_bins)[:-1].reshape(num_classes, num_classes)
    return jnp.where(jnp.any(counted_n & ~in_range_n), _IMPOSSIBLE, matrix_kk)


def _histogram(bin_n: jax.Array, num_bins: int) -> jax.Array:
    """Return int32[num_bins], how many of the numbers 0 … num_bins-1 are in each bin."""
    copy_n = jnp.arange(bin_n.size, dtype=jnp.int32) % _NUM_COPIES
    copies = jnp.bincount(copy_n * num_bins + bin_n, length=_NUM_COPIES * num_bins)
    return jnp.sum(copies.reshape(_NUM_COPIES, num_bins), axis=0, dtype=jnp.int32)


@partial(jax.jit, static_argnames="num_levels")
def count_levels(levels_bhwk: jax.Array, labels_bhwk: jax.Array, num_levels: int) -> jax.Array:
    """Return int32[k, 2, n], [class, is true, level]: the pixels of overlapping classes by truth and level.

    The level of a pixel is the number of thresholds that the probability of the class reaches. With a single threshold
    the levels are the decisions, and the counts are [class, is true, is predicted].

    Args:
        levels_bhwk: integer[b, h, w, k], 0…n−1; at ignored pixels anything.
        labels_bhwk: integer[b, h, w, k], 0, 1, or 255 where ignored. Any other label makes all entries −2^31, as in
            `confusion_matrix`.
        num_levels: n.
    """
    chex.assert_rank(levels_bhwk, 4)
    chex.assert_equal_shape([levels_bhwk, labels_bhwk])
    if labels_bhwk.size >= 2**31:
        raise ValueError(f"a batch of {labels_bhwk.size} labels can overflow int32 counts; use smaller batches")
    k = labels_bhwk.shape[-1]
    labels_bhwk = labels_bhwk.astype(jnp.int32)
    counted_bhwk, in_range_bhwk = labels_bhwk != IGNORE_LABEL, (labels_bhwk == 0) | (labels_bhwk == 1)
    num_bins = 2 * k * num_levels + 1
    bin_bhwk = (2 * jnp.arange(k, dtype=jnp.int32).reshape(1, 1, 1, k) + labels_bhwk) * num_levels + levels_bhwk.astype(
        jnp.int32
    )
    bin_n = jnp.where(in_range_bhwk, bin_bhwk, num_bins - 1).reshape(-1)
    counts_k2n = _histogram(bin_n, num_bins)[:-1].reshape(k, 2, num_levels)
    return jnp.where(jnp.any(counted_bhwk & ~in_range_bhwk), _IMPOSSIBLE, counts_k2n)


def count_levels_on_host(mask_hwk: np.ndarray, levels_hwk: np.ndarray, num_levels: int) -> np.ndarray:
    """Return int64[k, 2, n] as `count_levels`, of one mask uint8[h, w, k] and levels of its size."""
    if (beyond := mask_hwk[(mask_hwk > 1) & (mask_hwk != IGNORE_LABEL)]).size:
        raise UserError(f"the mask has the label {beyond.max()}, overlapping classes have 0, 1, or 255 for ignored")
    k = mask_hwk.shape[-1]
    bin_hwk = (2 * np.arange(k) + mask_hwk) * num_levels + levels_hwk
    counts = np.bincount(bin_hwk[mask_hwk != IGNORE_LABEL], minlength=2 * k * num_levels)
    return counts.reshape(k, 2, num_levels)


def count_pairs(mask_hw: np.ndarray, prediction_hw: np.ndarray, num_classes: int) -> np.ndarray:
    """Return int64[k, k], [true, predicted]: how many pixels of each true class were predicted as each class.

    On the host, where `confusion_matrix` would be compiled for every new size. The truth is uint8[h, w], with 255
    counted nowhere; any other label beyond the classes is refused.
    """
    counted_hw = mask_hw != IGNORE_LABEL
    true_n, predicted_n = mask_hw[counted_hw].astype(np.int64), prediction_hw[counted_hw]
    if true_n.size and true_n.max() >= num_classes:
        raise UserError(f"the mask has the label {true_n.max()}, the model knows 0 to {num_classes - 1}")
    counts = np.bincount(true_n * num_classes + predicted_n, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True, eq=False)
class SegMetrics:
    """The metrics of summed counts. A ratio is NaN where its denominator is 0.

    With tp = pixels of class k predicted as k, true and predicted = pixels that are, and were called, class k:
    """

    iou: np.ndarray  # float64[k], tp / (true + predicted − tp); NaN for a class absent from truth and prediction
    dice: np.ndarray  # float64[k], 2·tp / (true + predicted); NaN likewise
    precision: np.ndarray  # float64[k], tp / predicted; NaN for a class that was never predicted
    recall: np.ndarray  # float64[k], tp / true; NaN for a class absent from the truth
    true_share: np.ndarray  # float64[k], true / all counted pixels, 0 to 1
    predicted_share: np.ndarray  # float64[k], predicted / all counted pixels, 0 to 1
    mean_iou: float  # mean of `iou` over the classes where it is not NaN
    mean_dice: float  # mean of `dice` likewise
    pixel_accuracy: float  # share of the counted pixels that are right; of the decisions if classes overlap
    mean_accuracy: float  # mean of `recall` over the classes in the truth
    frequency_weighted_iou: float  # mean of `iou` weighed by the true pixels
    num_pixels: int  # counted pixels; of the class with most of them if classes overlap

    def to_dict(self, names: Sequence[str]) -> dict:
        """Return the metrics as plain values for JSON, NaN as None, with the classes listed by name."""
        chex.assert_shape(self.iou, (len(names),))
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        summary = {name: _plain(v) for name, v in values.items() if not isinstance(v, np.ndarray)}
        per_class = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
        classes = [
            {"name": name, **{metric: _plain(v[i]) for metric, v in per_class.items()}} for i, name in enumerate(names)
        ]
        return {**summary, "classes": classes}


def compute_metrics(counts: np.ndarray) -> SegMetrics:
    """Return the metrics of counts that are summed over a data set on the host.

    Args:
        counts: int64[k, k], [true, predicted]; of overlapping classes int64[k, 2, 2], [class, is true, is predicted].

    Raises:
        UserError: the counts are marked as made from impossible labels.
    """
    counts, k = np.asarray(counts), len(counts)
    chex.assert_shape(counts, (k, 2, 2) if np.ndim(counts) == 3 else (k, k))
    chex.assert_type(counts, np.int64)
    if (counts < 0).any():
        expected = "labels 0 and 1" if counts.ndim == 3 else f"labels and predictions 0…{k - 1}"
        raise UserError(
            f"expected {expected} (or label {IGNORE_LABEL}: ignored), found "
            "others; `python -m seg.check` names the masks"
        )
    if counts.ndim == 3:
        hits_k, true_k, predicted_k = counts[:, 1, 1], counts[:, 1].sum(1), counts[:, :, 1].sum(1)
        right, decisions, num_pixels = (counts[:, 0, 0] + hits_k).sum(), counts.sum(), counts.sum((1, 2)).max()
        total_k = counts.sum((1, 2))
    else:
        hits_k, true_k, predicted_k = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        right, decisions = hits_k.sum(), counts.sum()
        num_pixels = total_k = decisions
    iou_k = _ratio(hits_k, true_k + predicted_k - hits_k)
    dice_k = _ratio(2 * hits_k, true_k + predicted_k)
    recall_k = _ratio(hits_k, true_k)
    true_share_k = _ratio(true_k, total_k)
    return SegMetrics(
        iou=iou_k,
        dice=dice_k,
        precision=_ratio(hits_k, predicted_k),
        recall=recall_k,
        true_share=true_share_k,
        predicted_share=_ratio(predicted_k, total_k),
        mean_iou=_mean(iou_k),
        mean_dice=_mean(dice_k),
        pixel_accuracy=float(_ratio(right, decisions)),
        mean_accuracy=_mean(recall_k),
        frequency_weighted_iou=float(np.nansum(_ratio(true_k, true_k.sum()) * iou_k)) if num_pixels else math.nan,
        num_pixels=int(num_pixels),
    )


def warn_never_predicted(metrics: SegMetrics, names: Sequence[str]) -> list[str]:
    """Return one line for the classes that are in the truth and were never predicted; no line where there are none."""
    chex.assert_shape(metrics.iou, (len(names),))
    shares = zip(names, metrics.true_share, metrics.predicted_share, strict=True)
    missed = [f"{name} ({true:.2%} of the pixels)" for name, true, predicted in shares if true > 0 and predicted == 0]
    if not missed:
        return []
    more = f" and {len(missed) - MAX_NAMED} more" if len(missed) > MAX_NAMED else ""
    return [
        f"warning: never predicted: {', '.join(missed[:MAX_NAMED])}{more}. In training, "
        "loss.class_weighting: median_frequency gives rare classes more weight"
    ]


def format_table(metrics: SegMetrics, names: Sequence[str]) -> str:
    """Return the metrics as an aligned table for the terminal, one line a class, then the summary.

    Scores are shown as fractions, shares of the pixels in percent, and "–" where a value is not defined. A class
    with a true share but no predicted share is one that the network never predicts.
    """
    chex.assert_shape(metrics.iou, (len(names),))
    scores = (metrics.iou, metrics.dice, metrics.precision, metrics.recall)
    shares = (100 * metrics.true_share, 100 * metrics.predicted_share)
    header = ["class", "IoU", "Dice", "precision", "recall", "true %", "predicted %"]
    rows = [
        [name, *(_shown(v[i], 4) for v in scores), *(_shown(v[i], 2) for v in shares)] for i, name in enumerate(names)
    ]
    summary = {
        "mean IoU": _shown(metrics.mean_iou, 4),
        "mean Dice": _shown(metrics.mean_dice, 4),
        "pixel accuracy": _shown(metrics.pixel_accuracy, 4),
        "mean accuracy": _shown(metrics.mean_accuracy, 4),
        "frequency weighted IoU": _shown(metrics.frequency_weighted_iou, 4),
        "pixels counted": f"{metrics.num_pixels:,}",
    }
    return "\n".join([*_aligned([header, *rows]), "", *_aligned([[name, v] for name, v in summary.items()])])


def _ratio(numerator: np.ndarray, denominator: np.ndarray | int) -> np.ndarray:
    """Return numerator / denominator as float64, NaN where the denominator is 0."""
    denominator = np.where(np.asarray(denominator) == 0, np.nan, denominator)
    return np.asarray(numerator, np.float64) / denominator


def _mean(values_k: np.ndarray) -> float:
    """Return the mean of the values that are not NaN, NaN when there are none."""
    defined = values_k[~np.isnan(values_k)]
    return float(defined.mean()) if defined.size else math.nan


def _plain(value: float | int) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else float(value)


def _shown(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return one line a row: the first column flush left, the others flush right, two spaces between."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
