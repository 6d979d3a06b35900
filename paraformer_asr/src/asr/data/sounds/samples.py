"""Samples that a program passes piece by piece."""

import numpy as np

from asr.data.sounds.audio import MAX_PEAK
from asr.errors import UserError
from asr.ops.fbank import FULL_SCALE


def check_samples(samples: np.ndarray) -> np.ndarray:
    """Return the samples of one channel as float32[n] in −1…1.

    Raises:
        UserError: another shape or type than int16 or floats, a NaN, or values that are no samples in −1…1.
    """
    samples = np.asarray(samples)
    is_int16 = samples.dtype == np.int16
    if samples.ndim != 1 or not (is_int16 or samples.dtype.kind == "f"):
        expected = "samples of one channel, int16 or floats in −1…1"
        raise UserError(f"stream: expected {expected}, found {samples.dtype}{list(samples.shape)}")
    wave_n = samples.astype(np.float32) / (FULL_SCALE if is_int16 else 1)
    largest = np.abs(wave_n).max(initial=0.0)
    if not largest <= MAX_PEAK:
        hint = "" if np.isnan(largest) else "; divide 16-bit values by 32768, or pass them as int16"
        raise UserError(f"stream: expected samples in −1…1, found {largest:.6g}{hint}")
    return wave_n
