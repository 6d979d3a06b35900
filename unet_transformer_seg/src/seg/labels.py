"""Labels of the two kinds: a pixel has one class (exclusive), or any number of classes (overlapping).

Everything that differs between them on the way from logits to metrics is here: the probabilities, the decision, and the
counts that metrics are made of. The losses are in `seg.losses`.

Letters: b batch, h w pixels, k classes, n thresholds.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from seg.config import Config
from seg.errors import UserError
from seg.losses import Loss, build_loss, build_multilabel_loss
from seg.metrics import confusion_matrix, count_levels, count_levels_on_host, count_pairs

Array = jax.Array | np.ndarray

GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Thresholds that are tried on the validation split: 0.05 … 0.95."""

MIDDLE = 0.5
"""Threshold of a class for which none was chosen."""


class Exclusive:
    """One class a pixel: a softmax of the logits plus a shift, and the class of the highest probability."""

    thresholds: tuple[float, ...] = ()  # none are needed
    build_loss: Callable[..., Loss] = staticmethod(build_loss)

    def __init__(self, num_classes: int, logit_shift: Sequence[float] = ()):
        self._shift_k = np.asarray(logit_shift, np.float32)  # empty: none
        self.counts_shape = num_classes, num_classes
        self.perfect_counts = np.eye(num_classes, dtype=np.int64)

    def probabilities(self, logits_bhwk: jax.Array) -> jax.Array:
        """Return float32[b, h, w, k], which sums to 1 over the classes."""
        # A shift of s multiplies the odds of a class against the others by eˢ.
        shifted_bhwk = logits_bhwk + self._shift_k.reshape(1, 1, 1, -1) if self._shift_k.size else logits_bhwk
        return jax.nn.softmax(shifted_bhwk, axis=-1)

    def decide(self, probabilities: Array) -> Array:
        """Return uint8[…], the class of the highest of probabilities[…, k]; of equal ones the first."""
        return probabilities.argmax(-1).astype(np.uint8)

    def decide_planes(self, probabilities_khw: np.ndarray) -> np.ndarray:
        """Return the same as uint8[h, w], from one plane for each class."""
        # Class by class: 20 times faster than `argmax` along the first axis.
        best_hw, labels_hw = probabilities_khw[0].copy(), np.zeros(probabilities_khw.shape[1:], np.uint8)
        for label, probability_hw in enumerate(probabilities_khw[1:], 1):
            np.copyto(labels_hw, label, where=probability_hw > best_hw)
            np.maximum(best_hw, probability_hw, out=best_hw)
        return labels_hw

    def count(self, decided_bhw: jax.Array, labels_bhw: jax.Array) -> jax.Array:
        """Return int32[k, k], [true, predicted], on the device."""
        return confusion_matrix(decided_bhw, labels_bhw, self.counts_shape[0])

    def count_on_host(self, mask_hw: np.ndarray, decided_hw: np.ndarray) -> np.ndarray:
        """Return int64[k, k], [true, predicted], of one mask."""
        return count_pairs(mask_hw, decided_hw, self.counts_shape[0])

    def settle(self, counts: np.ndarray) -> tuple["Exclusive", np.ndarray]:
        """Return the labels to predict with, and int64[k, k] of their decisions."""
        return self, counts

    def settled(self, decided: np.ndarray, chosen: "Exclusive") -> np.ndarray:
        """Return what `chosen`, the result of `settle`, decides."""
        return decided


class Overlapping:
    """Any number of classes a pixel: a sigmoid for each class, and a threshold.

    A decision is the number of thresholds that a probability reaches, its level. With one threshold for each class that
    is 0 or 1. With a grid of them, `settle` chooses one for each class by the counts of the levels, so that a single
    pass over the validation split tries all of them.
    """

    build_loss: Callable[..., Loss] = staticmethod(build_multilabel_loss)

    def __init__(self, grid_kn: Sequence[Sequence[float]]):
        """Take the thresholds of each class, ascending."""
        self._grid_kn = np.asarray(grid_kn, np.float32)
        self.counts_shape = len(self._grid_kn), 2, self._grid_kn.shape[1] + 1
        self.perfect_counts = np.repeat(np.eye(2, dtype=np.int64)[None], len(self._grid_kn), axis=0)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The threshold of each class; of a grid, the first ones."""
        return tuple(round(float(threshold), 6) for threshold in self._grid_kn[:, 0])

    @staticmethod
    def probabilities(logits_bhwk: jax.Array) -> jax.Array:
        """Return float32[b, h, w, k], the probability of each class by itself."""
        return jax.nn.sigmoid(logits_bhwk)

    def decide(self, probabilities: Array) -> Array:
        """Return uint8[…, k], how many thresholds each of probabilities[…, k] reaches."""
        # In arrays of equal rank: jax may refuse to add axes by itself.
        grid_n = self._grid_kn.T.reshape(-1, *[1] * (probabilities.ndim - 1), len(self._grid_kn))
        return sum((probabilities >= threshold).astype(np.uint8) for threshold in grid_n)

    def decide_planes(self, probabilities_khw: np.ndarray) -> np.ndarray:
        """Return the same as uint8[h, w, k], from one plane for each class."""
        return np.ascontiguousarray(self.decide(np.moveaxis(probabilities_khw, 0, -1)))

    def count(self, decided_bhwk: jax.Array, labels_bhwk: jax.Array) -> jax.Array:
        """Return int32[k, 2, n+1], [class, is true, level], on the device."""
        return count_levels(decided_bhwk, labels_bhwk, self.counts_shape[-1])

    def count_on_host(self, mask_hwk: np.ndarray, decided_hwk: np.ndarray) -> np.ndarray:
        """Return int64[k, 2, n+1], [class, is true, level], of one mask."""
        return count_levels_on_host(mask_hwk, decided_hwk, self.counts_shape[-1])

    def settle(self, counts: np.ndarray) -> tuple["Overlapping", np.ndarray]:
        """Return the labels with the threshold of the largest Dice for each class, and int64[k, 2, 2] of them.

        Of equal ones the threshold next to 0.5 is chosen; that is also the choice for a class without a true pixel.
        """
        # [class, is true, threshold]: pixels at or above each threshold.
        predicted_k2n = counts[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]
        hits_kn, true_k1 = predicted_k2n[:, 1], counts[:, 1].sum(-1, keepdims=True)
        dice_kn = 2 * hits_kn / np.maximum(predicted_k2n.sum(1) + true_k1, 1)
        # Of equal maxima argmax takes the first, so the thresholds are ordered by their distance from the middle.
        order_kn = np.argsort(np.abs(self._grid_kn - MIDDLE), axis=1, kind="stable")
        best_k1 = np.take_along_axis(dice_kn, order_kn, 1).argmax(1)[:, None]
        place_k1 = np.take_along_axis(order_kn, best_k1, 1)
        positive_k2 = np.take_along_axis(predicted_k2n, place_k1[:, None], 2)[..., 0]
        chosen = Overlapping(np.take_along_axis(self._grid_kn, place_k1, 1))
        return chosen, np.stack([counts.sum(-1) - positive_k2, positive_k2], axis=-1)

    def settled(self, decided_hwk: np.ndarray, chosen: "Overlapping") -> np.ndarray:
        """Return what `chosen`, the result of `settle`, decides: uint8[h, w, k]."""
        place_k = (self._grid_kn < chosen._grid_kn).sum(1)  # thresholds below the chosen one
        return (decided_hwk > place_k).astype(np.uint8)


Labels = Exclusive | Overlapping


def build_labels(config: Config, num_classes: int, *, choose: bool = False) -> Labels:
    """Return the labels of `model.labels`.

    With overlapping labels the thresholds are those of `inference.thresholds`. Where it states none they are 0.5, or
    with `choose` those of `GRID`, to be settled.

    Raises:
        UserError: `inference.thresholds` or `inference.logit_shift` are not as many as the classes.
    """
    for name in ("thresholds", "logit_shift"):
        number = len(getattr(config.inference, name))
        if number not in (0, num_classes):
            raise UserError(f"inference.{name}: expected a number for each of {num_classes} classes, found {number}")
    if config.model.labels == "exclusive":
        return Exclusive(num_classes, config.inference.logit_shift)
    stated = config.inference.thresholds
    if stated:
        return Overlapping([[threshold] for threshold in stated])
    return Overlapping([GRID if choose else [MIDDLE]] * num_classes)
