"""The sinusoid code of positions."""

import numpy as np
import pytest

from asr.ops.position import sinusoid


def test_equals_the_formula_entry_by_entry():
    code = np.asarray(sinusoid(7, 10))
    for t in range(7):
        for k in range(5):
            angle = (t + 1) * 10000 ** (-k / 4)
            np.testing.assert_allclose(code[t, [k, 5 + k]], [np.sin(angle), np.cos(angle)], atol=1e-6)


def test_a_frame_has_the_same_code_in_any_length():
    np.testing.assert_array_equal(sinusoid(5, 8), sinusoid(9, 8)[:5])


def test_an_odd_width_is_refused():
    with pytest.raises(AssertionError):
        sinusoid(3, 7)
