"""From predicted and true labels to the mean intersection over union, by way of a confusion matrix.

    matrix[t, p] = number of pixels of true class t that were predicted as class p
    iou[k]       = matrix[k, k] / (Σ_p matrix[k, p] + Σ_t matrix[t, k] − matrix[k, k])
    mean IoU     = mean of iou[k] over the classes whose denominator is not 0

Pixels labelled 255 are counted nowhere. A class that is neither true nor predicted anywhere is left out of the mean;
where no pixel counts, the mean is NaN. Matrices are exact whole numbers and add up over batches.

Letters: b batch, h w rows and columns, k classes.
"""

import jax
import numpy as np

IGNORED = 255


def confusion_matrix(predicted_bhw: jax.Array, labels_bhw: jax.Array, num_classes: int) -> jax.Array:
    """Return int32[k, k], [true, predicted]: how many pixels of each true class were predicted as each class.

    Args:
        predicted_bhw: int32[b, h, w], 0…k−1.
        labels_bhw: int32[b, h, w], 0…k−1, or 255 where ignored.
        num_classes: k.
    """
    raise NotImplementedError


def mean_iou(matrix_kk: np.ndarray) -> float:
    """Return the mean IoU of a confusion matrix int64[k, k]; NaN if it counts no pixel, without a warning."""
    raise NotImplementedError
