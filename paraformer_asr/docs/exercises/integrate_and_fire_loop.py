"""Exercise: integrate-and-fire as the loop that was published, for weights of any size.

A level and a vector begin at 0. Each frame t adds its weight to the level and its weighted vector to the vector:

    level  ← level + alpha[t]
    vector ← vector + alpha[t] · hidden[t]

Where the level would reach 1, the weight is split. The part that is missing to 1 completes the token, which fires; the
rest begins the next one. A weight above 1 may complete several tokens. What has not fired at the end is a last, partial
row; rows behind it are 0.
"""

import numpy as np


def integrate_and_fire(alpha_t: np.ndarray, hidden_td: np.ndarray, num_rows: int) -> np.ndarray:
    """Return float64[num_rows, d], the vectors of the tokens in order, the one that has not fired last.

    A token that is full up to rounding (1 − 10⁻⁹) fires. Tokens beyond `num_rows` are left out.

    Args:
        alpha_t: float64[t], weights, at least 0.
        hidden_td: float64[t, d], frames.
        num_rows: rows of the result.
    """
    raise NotImplementedError
