"""Levels of sound: the energy of frames of 10 ms, and which of them are sound by it.

Letters: n samples, t frames.
"""

import numpy as np

FLOOR_DB = -70.0  # levels below it are silence: the noise of a good microphone, 20 dB above the last bit of 16
CLICK_FRAMES = 2  # loudest frames that do not count, as a click has


def frame_levels(wave: np.ndarray, frame_samples: int) -> np.ndarray:
    """Return float64[ceil(n / frame_samples)], the variance of each frame in dB of full scale, at least −120."""
    check_rank(wave)
    whole = len(wave) // frame_samples * frame_samples
    variances = wave[:whole].reshape(-1, frame_samples).var(axis=1, dtype=np.float64)
    if whole < len(wave):
        variances = np.append(variances, wave[whole:].var(dtype=np.float64))
    return 10 * np.log10(variances + 1e-12)


def loudness(level_t: np.ndarray) -> float:
    """Return the level of the loudest frame in dB, without a click of two frames."""
    return float(np.sort(level_t)[-min(CLICK_FRAMES + 1, len(level_t))])


def is_sound(level_t: np.ndarray, loud_db: float, silence_db: float) -> np.ndarray:
    """Return bool[t], the frames above silence: less than `silence_db` below the loudest ones, and above −70 dB."""
    return level_t > max(loud_db - silence_db, FLOOR_DB)


def check_rank(wave: np.ndarray) -> None:
    """Refuse an array of several channels."""
    if wave.ndim != 1:
        raise ValueError(f"expected samples of one channel, found an array of shape {wave.shape}")
