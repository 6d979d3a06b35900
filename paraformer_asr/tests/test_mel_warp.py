"""Stretching the frequency axis moves a resonance to where a shorter vocal tract has it."""

import jax.numpy as jnp
import numpy as np
import pytest

from asr.ops.fbank import log_mel_filterbank
from asr.ops.mel_warp import warp_mel_axis

EDGES = {"low_frequency_hz": 20.0, "high_frequency_hz": 8000.0}


def mel_of_tone(frequency_hz):
    wave_1n = np.sin(2 * np.pi * frequency_hz * np.arange(1600) / 16000).astype(np.float32)[None]
    return log_mel_filterbank(wave_1n, np.array([1600], np.int32), sample_rate_hz=16000, num_mels=80)[0]


@pytest.mark.parametrize("factor", [0.85, 0.93, 1.1, 1.15])
@pytest.mark.parametrize("frequency_hz", [500.0, 1500.0, 4000.0])
def test_a_tone_moves_to_the_factor_times_its_frequency(factor, frequency_hz):
    warped = warp_mel_axis(mel_of_tone(frequency_hz), jnp.array([factor]), **EDGES)
    expected = mel_of_tone(frequency_hz * factor)
    assert abs(int(warped[0, 0].argmax()) - int(expected[0, 0].argmax())) <= 1


def test_each_utterance_has_its_factor_and_1_changes_nothing():
    mel_btm = np.random.default_rng(0).standard_normal((3, 5, 40)).astype(np.float32)
    warped = warp_mel_axis(mel_btm, jnp.array([1.0, 0.9, 1.1]), **EDGES)
    np.testing.assert_allclose(warped[0], mel_btm[0], atol=1e-4)
    for row, factor in ((1, 0.9), (2, 1.1)):
        alone = warp_mel_axis(mel_btm[row : row + 1], jnp.array([factor]), **EDGES)
        np.testing.assert_allclose(warped[row], alone[0], atol=1e-6)
        assert not np.allclose(warped[row], mel_btm[row], atol=0.1)


def test_beyond_the_outermost_filters_their_values_are_repeated():
    ramp_11m = np.arange(40, dtype=np.float32)[None, None]
    lower = np.asarray(warp_mel_axis(ramp_11m, jnp.array([0.5]), **EDGES))[0, 0]
    higher = np.asarray(warp_mel_axis(ramp_11m, jnp.array([2.0]), **EDGES))[0, 0]
    assert lower[-1] == 39 and (np.diff(lower) >= 0).all() and higher[0] == 0 and (np.diff(higher) >= 0).all()
