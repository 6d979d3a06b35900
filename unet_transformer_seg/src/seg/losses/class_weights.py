"""Class weights from the config, or from the pixel counts of the training masks (numpy, once before training)."""

from collections.abc import Callable

import chex
import numpy as np

from seg.config import LossConfig
from seg.errors import UserError


def build_class_weights(
    config: LossConfig, num_classes: int, count_pixels: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> np.ndarray | None:
    """Return the weights float32[k] that the config asks for, or None for none.

    `count_pixels` returns the two counts that `median_frequency_weights` takes. It reads all training masks, so it is
    called only where they are needed.
    """
    match config.class_weighting:
        case "none":
            return None
        case "given":
            return given_weights(config.class_weights, num_classes, config.class_weight_power)
        case "median_frequency":
            return median_frequency_weights(*count_pixels(), config.class_weight_power)
        case _:
            raise ValueError(f"loss.class_weighting {config.class_weighting!r} has no case in build_class_weights")


def given_weights(class_weights: tuple[float, ...], num_classes: int, power: float = 1.0) -> np.ndarray:
    """Return `class_weights`^power as float32[k]; a weight of 0 stays 0 at any power."""
    weights_k = np.asarray(class_weights, np.float64)
    if len(weights_k) != num_classes:
        raise UserError(
            f"loss.class_weights: expected one weight for each of {num_classes} classes, found {len(weights_k)}"
        )
    if not weights_k.any():
        raise UserError("loss.class_weights: expected a positive weight, found only 0: nothing would be learned")
    # 0^0 is 1, but a weight of 0 switches a class off.
    return np.where(weights_k > 0, weights_k**power, 0.0).astype(np.float32)


def median_frequency_weights(
    pixel_counts_k: np.ndarray, pixels_of_images_with_class_k: np.ndarray, power: float = 1.0
) -> np.ndarray:
    """Return the weights that give rare classes a voice: median frequency balancing.

        frequency[k] = pixel_counts[k] / pixels_of_images_with_class[k]
        weight[k]    = (median(frequency) / frequency[k])^power,    1 for a class that never occurs

    The median runs over the classes that occur. A class that never occurs has no pixel to weigh; the weight 1
    leaves it an ordinary class for the loss that asks every class at every pixel (bce): with the weight 0 its
    logit would go untrained and could win.

    Args:
        pixel_counts_k: integer[k], pixels of each class.
        pixels_of_images_with_class_k: integer[k], pixels of the images in which the class occurs. (With or without
            the ignored ones: 4 % of CamVid is ignored, and the weights differ by less than 0.5 %.)
        power: exponent; 0.5 halves the spread on a log scale, 0 makes all weights 1.

    Returns:
        float32[k].

    Raises:
        UserError: no class occurs at all.

    Reference: Eigen and Fergus 2015, "Predicting Depth, Surface Normals and Semantic Labels with a Common
    Multi-Scale Convolutional Architecture"; Badrinarayanan et al. 2017, "SegNet".
    """
    counts_k = np.asarray(pixel_counts_k, np.float64)
    pixels_k = np.asarray(pixels_of_images_with_class_k, np.float64)
    chex.assert_rank(counts_k, 1)
    chex.assert_equal_shape([counts_k, pixels_k])
    occurs_k = counts_k > 0  # a frequency of 0 has no inverse
    if not occurs_k.any():
        raise UserError("loss.class_weighting: median_frequency needs labelled pixels, the training masks have none")
    # Of the images that have the class: one that is rare because few images have it is not made heavier still.
    frequency_k = counts_k[occurs_k] / pixels_k[occurs_k]
    weights_k = np.ones(len(counts_k), np.float32)  # 1 for a class without a pixel, see above
    # The median class gets the weight 1, so the size of the loss stays what it is without weights.
    weights_k[occurs_k] = (np.median(frequency_k) / frequency_k) ** power
    return weights_k
