"""Run lengths as the COCO API writes them, against its own words and a decoder of ours."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seg.serve.run_lengths import compress, encode_mask


def decompress(text):
    """Read the numbers back, character by character, as `rleFrString` of maskApi.c describes."""
    lengths, number, shift = [], 0, 0
    for code in (ord(character) - 48 for character in text):
        number |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number, shift = 0, 0
    return lengths


def decode(counts, shape):
    pixels = np.concatenate([np.full(length, i % 2, bool) for i, length in enumerate(decompress(counts))])
    return pixels.reshape(shape, order="F")


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)))
def test_the_mask_comes_back(mask_hw):
    encoded = encode_mask(mask_hw)
    assert encoded["size"] == list(mask_hw.shape)
    np.testing.assert_array_equal(decode(encoded["counts"], mask_hw.shape), mask_hw)


@given(st.lists(st.integers(0, 1 << 40), max_size=20))
def test_lengths_of_any_size_come_back(lengths):
    assert decompress(compress(lengths)) == lengths


def test_it_writes_what_pycocotools_writes():
    """Recorded with pycocotools 2.0: encode() of a ring of radii 10 and 25 around (30, 40), and of a full mask."""
    y, x = np.mgrid[:60, :80]
    squared = (y - 30) ** 2 + (x - 40) ** 2
    counts = (
        r"hn0=\16K4L4M2M4M2N2N2O0O2N2O0O2O0OVOK04ON02N20M130LO60JO80H080H080H080H080H080H080H080H080H160J140MO30N2N021"
        r"L05j0101N101N2N101N2N2N3L3N3L4L5J_k0"
    )
    assert encode_mask((squared < 25**2) & (squared >= 10**2)) == {"size": [60, 80], "counts": counts}
    assert encode_mask(np.ones((3, 4), bool)) == {"size": [3, 4], "counts": "0<"}
