"""Compares logits with those of the original network, and prints the difference for docs/published_models.md (`-s`)."""

import numpy as np


def compare(name, logits, expected, tolerance=1e-4):
    """Assert that the logits agree and choose the same classes; logits of little spread would prove nothing."""
    logits, expected = np.asarray(logits), np.asarray(expected)
    print(f"difference: {name} {'×'.join(map(str, expected.shape[1:3]))}: {abs(logits - expected).max():.1e}")
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=tolerance)
    if expected.shape[-1] > 1:
        np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
    else:
        np.testing.assert_array_equal(logits > 0, expected > 0)
