"""The mask of lengths is True at the first places of a row, and nowhere else."""

import jax.numpy as jnp
import numpy as np

from asr.ops.masks import length_mask


def test_a_length_marks_the_places_before_it():
    mask_bt = length_mask(jnp.array([0, 2, 3, 5], jnp.int32), 3)
    np.testing.assert_array_equal(mask_bt, [[0, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]])
    assert mask_bt.dtype == bool
