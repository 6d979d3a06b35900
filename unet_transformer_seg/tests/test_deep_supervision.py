"""Deep supervision: the weights of the stages, and which labels a coarser stage sees."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.losses import deep_supervision_loss, dice_loss
from seg.losses.combined import labels_at


def test_deep_supervision_without_coarser_stages_is_the_loss():
    logits = np.arange(16, dtype=np.float32).reshape(1, 2, 4, 2) % 5
    labels = np.array([[[0, 1, 1, 0], [1, 0, 255, 1]]], np.int32)
    assert deep_supervision_loss(dice_loss, [logits], labels) == dice_loss(logits, labels)


def test_deep_supervision_weights_halve_and_sum_to_one():
    labels = np.arange(64, dtype=np.int32).reshape(1, 8, 8)
    stages = [np.full((1, n, n, 2), value, np.float32) for n, value in ((8, 1.0), (4, 10.0), (2, 100.0))]
    seen = []

    def loss(logits_bhwk, labels_bhw):
        seen.append(labels_bhw)
        return jnp.mean(logits_bhwk)

    found = deep_supervision_loss(loss, stages, labels)
    assert found == pytest.approx((4 * 1 + 2 * 10 + 1 * 100) / 7)
    np.testing.assert_array_equal(seen[0], labels)
    np.testing.assert_array_equal(seen[1], labels[:, 1::2, 1::2])
    np.testing.assert_array_equal(seen[2], labels[:, 2::4, 2::4])


@pytest.mark.parametrize(("size", "coarse"), [((8, 12), (1, 3)), ((65, 47), (32, 23))])
def test_labels_of_a_coarser_stage_are_those_under_its_pixel_centres(size, coarse):
    labels = np.random.default_rng(0).integers(0, 256, (2, *size)).astype(np.uint8)
    found = jax.jit(partial(labels_at, size=coarse))(labels)
    assert found.dtype == np.uint8
    for i, j in np.ndindex(coarse):
        row, column = int((i + 0.5) * size[0] / coarse[0]), int((j + 0.5) * size[1] / coarse[1])
        np.testing.assert_array_equal(found[:, i, j], labels[:, row, column])
