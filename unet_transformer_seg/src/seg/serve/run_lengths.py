"""Run lengths of a mask as the COCO API writes them.

The pixels are taken column by column. The runs alternate, beginning with pixels outside of the mask. Each length from
the fourth on is stored as the difference to that two places before it; a number takes characters of five bits, the
lowest first, the sixth bit marking that another one follows.

Reference: Lin et al., 2014 (COCO), `maskApi.c`, `rleToString`.
"""

import numpy as np

FIRST_CHARACTER = 48
BITS, MORE, SIGN = 5, 1 << 5, 1 << 4


def encode_mask(mask_hw: np.ndarray) -> dict:
    """Return {"size": [h, w], "counts": text} of bool[h, w]."""
    return {"size": list(mask_hw.shape), "counts": compress(run_lengths(mask_hw))}


def run_lengths(mask_hw: np.ndarray) -> list[int]:
    """Return the lengths of the runs, column by column; the first is of pixels outside, and may be 0."""
    pixels_n = np.concatenate([[False], mask_hw.ravel(order="F")])
    changes = np.flatnonzero(pixels_n[1:] != pixels_n[:-1])
    return np.diff(np.concatenate([[0], changes, [mask_hw.size]])).tolist()


def compress(lengths: list[int]) -> str:
    """Return the lengths as text."""
    text = bytearray()
    for position, length in enumerate(lengths):
        number = length - lengths[position - 2] if position > 2 else length
        more = True
        while more:
            low = number & (MORE - 1)
            number >>= BITS
            more = number != (-1 if low & SIGN else 0)
            text.append(FIRST_CHARACTER + (low | MORE if more else low))
    return text.decode("ascii")
