"""How far an error rate would move if other utterances of the same kind had been recorded."""

import math
from collections.abc import Sequence

import numpy as np

from asr.metrics.error_rate import ErrorCounts


def bootstrap_interval(
    counts: Sequence[ErrorCounts], level: float = 0.95, num_samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap confidence interval of the error rate.

    Test sets are drawn from the utterances, with replacement and of the same number; the interval leaves out
    (1 − level)/2 of their rates at either end. Utterances are drawn as a whole, as the errors within one hang
    together. Errors that speakers share make the true interval wider: the result knows nothing of speakers.

    `counts` has an entry for each utterance; the same `seed` gives the same interval.

    Returns:
        (low, high) as fractions; NaN where there is no utterance with text. A drawn set without any text is left out.

    Raises:
        ValueError: a level that is not between 0 and 1.

    Reference: Bisani and Ney 2004, "Bootstrap Estimates for Confidence Intervals in ASR Performance Evaluation".
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, found {level}")
    errors_n = np.array([c.errors for c in counts], np.int64)
    lengths_n = np.array([c.reference_length for c in counts], np.int64)
    if not lengths_n.any():
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(num_samples):  # one draw at a time: the memory does not grow with their number
        drawn_n = rng.integers(len(counts), size=len(counts))
        length = lengths_n[drawn_n].sum()
        if length:
            rates.append(errors_n[drawn_n].sum() / length)
    if not rates:
        return math.nan, math.nan
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
