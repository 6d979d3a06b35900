"""The filterbank: Kaldi's values, the same for an utterance alone and padded, and frames stacked as FunASR does."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.errors import UserError
from asr.ops import fbank
from asr.ops.fbank import log_mel_filterbank, stack_frames

RECORDED = Path(__file__).parent / "recorded" / "fbank.npz"
SPEECH = {"sample_rate_hz": 16000, "num_mels": 80}


def make_wave(num_samples, seed=0, level=0.1):
    """Return noise with a falling spectrum and a tone."""
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.standard_normal(num_samples + 8), np.ones(8) / 8, mode="valid")[:num_samples]
    return (level * (noise + np.sin(0.3 * np.arange(num_samples)))).astype(np.float32)


def compute(wave_n, **settings):
    """Return (float32[t, m], number of frames) of a single utterance."""
    mel_1tm, lengths_1 = log_mel_filterbank(wave_n[None], np.array([len(wave_n)], np.int32), **settings)
    return np.asarray(mel_1tm[0]), int(lengths_1[0])


def slow_filterbank(
    wave,
    sample_rate_hz,
    num_mels,
    frame_length_ms=25.0,
    frame_shift_ms=10.0,
    window="hamming",
    low_frequency_hz=20.0,
    high_frequency_hz=0.0,
    preemphasis=0.97,
):
    """Kaldi's steps one after the other, in float64, with loops."""
    length, shift = int(sample_rate_hz * 0.001 * frame_length_ms), int(sample_rate_hz * 0.001 * frame_shift_ms)
    fft_length = 1
    while fft_length < length:
        fft_length *= 2
    angle = 2 * np.pi * np.arange(length) / (length - 1)
    shapes = {"hamming": 0.54 - 0.46 * np.cos(angle), "hann": 0.5 - 0.5 * np.cos(angle)}
    shapes["povey"] = shapes["hann"] ** 0.85
    high_frequency_hz = high_frequency_hz or sample_rate_hz / 2
    low_mel, high_mel = (1127 * np.log(1 + f / 700) for f in (low_frequency_hz, high_frequency_hz))
    step = (high_mel - low_mel) / (num_mels + 1)
    rows = []
    for start in range(0, len(wave) - length + 1, shift):
        frame = wave[start : start + length].astype(np.float64) * 32768
        frame = frame - frame.mean()
        for i in range(length - 1, 0, -1):
            frame[i] -= preemphasis * frame[i - 1]
        frame[0] -= preemphasis * frame[0]
        power = np.abs(np.fft.fft(frame * shapes[window], fft_length)) ** 2
        row = []
        for m in range(num_mels):
            left, top, right = low_mel + m * step, low_mel + (m + 1) * step, low_mel + (m + 2) * step
            energy = 0.0
            for k in range(fft_length // 2):
                mel = 1127 * np.log(1 + k * sample_rate_hz / fft_length / 700)
                if left < mel < right:
                    energy += power[k] * ((mel - left) / (top - left) if mel <= top else (right - mel) / (right - top))
            row.append(np.log(max(energy, 1.1920929e-07)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(
    "settings",
    [
        SPEECH,
        {"sample_rate_hz": 16000, "num_mels": 23, "window": "povey", "high_frequency_hz": 7600.0},
        {"sample_rate_hz": 8000, "num_mels": 40, "window": "hann", "frame_shift_ms": 12.5},
        {"sample_rate_hz": 22050, "num_mels": 16, "low_frequency_hz": 0.0, "preemphasis": 0.0},
        {"sample_rate_hz": 16000, "num_mels": 16, "frame_length_ms": 16.0, "frame_shift_ms": 20.0},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_values_are_those_of_the_slow_version(settings):
    wave = make_wave(3001)
    found, length = compute(wave, **settings)
    expected = slow_filterbank(wave, **settings)
    assert length == len(expected)
    np.testing.assert_allclose(found[:length], expected, atol=2e-4)
    assert abs((found[:length] - expected).mean()) < 1e-5


def test_kaldi_native_fbank_recorded():
    """Half a second of synthetic speech, with what kaldi-native-fbank 1.23 makes of it."""
    with np.load(RECORDED) as recorded:
        wave, expected = recorded["wave"], recorded["fbank"]
    found, length = compute(wave.astype(np.float32) / 32768, **SPEECH)
    assert found.shape == expected.shape and length == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_padding_changes_nothing_and_what_is_behind_the_end_is_zero():
    waves = [make_wave(n, seed=n) for n in (8000, 5120, 399, 400, 0)]
    wave_bn = np.full((5, 9000), np.nan, np.float32)
    for row, wave in zip(wave_bn, waves, strict=True):
        row[: len(wave)] = wave
    lengths_b = np.array([len(w) for w in waves], np.int32)
    mel_btm, mel_lengths_b = log_mel_filterbank(wave_bn, lengths_b, **SPEECH)
    assert mel_btm.shape == (5, 54, 80)
    np.testing.assert_array_equal(mel_lengths_b, [48, 30, 0, 1, 0])
    for i, length in enumerate(np.asarray(mel_lengths_b)):
        np.testing.assert_array_equal(mel_btm[i, length:], 0)
        if length:
            np.testing.assert_allclose(mel_btm[i, :length], compute(waves[i], **SPEECH)[0], atol=1e-4)


def test_a_frame_sees_the_samples_of_its_window_only():
    wave_1n = make_wave(1600)[None]

    def frame_energy(wave_1n, frame):
        return log_mel_filterbank(wave_1n, np.array([1500], np.int32), **SPEECH)[0][0, frame].sum()

    gradient = jax.jit(jax.grad(frame_energy))
    for frame, first, last in ((0, 0, 399), (3, 480, 879), (6, 960, 1359)):
        gradient_n = np.asarray(gradient(wave_1n, frame)[0])
        assert np.isfinite(gradient_n).all()
        seen = np.flatnonzero(gradient_n)
        assert (seen.min(), seen.max()) == (first, last) and len(seen) > 380
    assert (np.asarray(gradient(wave_1n, 7)) == 0).all()  # its window ends at sample 1519, behind the end


@pytest.mark.parametrize(("window_length", "shift"), [(400, 160), (100, 160), (7, 7), (8, 3)])
def test_the_number_of_frames_is_that_of_the_windows_that_fit(window_length, shift):
    num_samples = np.arange(1000)
    expected = [len(range(0, n - window_length + 1, shift)) for n in num_samples]
    np.testing.assert_array_equal(fbank.num_mel_frames(num_samples, window_length, shift), expected)
    np.testing.assert_array_equal(fbank.num_mel_frames(jnp.asarray(num_samples), window_length, shift), expected)
    assert [fbank.num_mel_frames(int(n), window_length, shift) for n in num_samples] == expected
    for n in (window_length, 999):
        frames = fbank.cut_frames(jnp.arange(n, dtype=jnp.float32)[None], window_length, shift)
        starts = np.arange(0, n - window_length + 1, shift)
        np.testing.assert_array_equal(frames[0], starts[:, None] + np.arange(window_length))


def test_a_constant_offset_is_removed_and_a_factor_adds_its_logarithm():
    wave = make_wave(4000)
    plain, _ = compute(wave, **SPEECH)
    np.testing.assert_allclose(compute(wave + 0.25, **SPEECH)[0], plain, atol=5e-3)
    np.testing.assert_allclose(compute(4 * wave, **SPEECH)[0], plain + 2 * np.log(4), atol=1e-4)


def test_silence_is_the_floor():
    found, length = compute(np.zeros(1000, np.float32), **SPEECH)
    assert length == 4
    np.testing.assert_allclose(found, np.log(1.1920929e-07), rtol=1e-6)


def test_extreme_levels_stay_finite():
    square = np.where(np.arange(4000) % 50 < 25, 1.0, -1.0).astype(np.float32)
    for level in (1e-7, 1.0, 1e6):
        assert np.isfinite(compute(level * square, **SPEECH)[0]).all()


def test_a_tone_is_loudest_in_the_filter_around_it():
    tops_hz = 700 * np.expm1(np.linspace(fbank.mel_scale(20), fbank.mel_scale(8000), 42)[1:-1] / 1127)
    for filter_number in (8, 20, 39):
        tone = 0.3 * np.sin(2 * np.pi * tops_hz[filter_number] / 16000 * np.arange(4000))
        found, _ = compute(tone.astype(np.float32), sample_rate_hz=16000, num_mels=40)
        assert (found.argmax(axis=1) == filter_number).all()


def test_a_thousand_hertz_are_a_thousand_mel():
    np.testing.assert_allclose(fbank.mel_scale([0, 1000, 4000]), [0, 1000, 2146.07], atol=0.02)


def test_filters_are_triangles_that_share_every_bin_between_the_tops():
    filters_km = fbank.mel_filters(40, 512, 16000, 100.0, 7000.0)
    bins_hz = np.arange(256) * 31.25
    assert filters_km.shape == (256, 40)
    assert filters_km.min() == 0 and filters_km.max() <= 1
    assert (filters_km[(bins_hz < 100) | (bins_hz > 7000)] == 0).all()
    tops_hz = 700 * np.expm1(np.linspace(fbank.mel_scale(100), fbank.mel_scale(7000), 42)[1:-1] / 1127)
    between = (bins_hz > tops_hz[0]) & (bins_hz < tops_hz[-1])
    np.testing.assert_allclose(filters_km[between].sum(axis=1), 1, atol=1e-5)


def test_filters_narrower_than_the_spectrum_are_refused():
    with pytest.raises(UserError, match=r"num_mels 200: filter \d+ .*512 points at 16000 Hz"):
        compute(make_wave(1000), sample_rate_hz=16000, num_mels=200)


def test_an_unknown_window_is_refused():
    with pytest.raises(ValueError, match="hamming, hann, povey, found 'kaiser'"):
        compute(make_wave(1000), window="kaiser", **SPEECH)


def test_contracts():
    wave_1n, lengths_1 = make_wave(1000)[None], np.array([1000], np.int32)
    for wave, lengths in ((wave_1n[0], lengths_1), (wave_1n, np.array([1000, 2], np.int32))):
        with pytest.raises(AssertionError):
            log_mel_filterbank(wave, lengths, **SPEECH)
    with pytest.raises(AssertionError):
        log_mel_filterbank((wave_1n * 32768).astype(np.int16), lengths_1, **SPEECH)
    with pytest.raises(AssertionError):
        stack_frames(np.zeros((2, 5, 3), np.float32), np.zeros(2, np.float32), lfr_m=3, lfr_n=2)


def slow_stack(frames, lfr_m, lfr_n):
    """FunASR's way: copies of the first frame in front, of the last one behind, then slices."""
    num_stacks = -(-len(frames) // lfr_n)
    padded = [frames[0]] * ((lfr_m - 1) // 2) + list(frames) + [frames[-1]] * (lfr_m + lfr_n)
    return np.array([np.concatenate(padded[s * lfr_n : s * lfr_n + lfr_m]) for s in range(num_stacks)])


@pytest.mark.parametrize(("lfr_m", "lfr_n"), [(7, 6), (1, 1), (4, 4), (3, 1), (2, 5)])
def test_stacking_is_that_of_the_slow_version_for_every_length(lfr_m, lfr_n):
    lengths_b = np.arange(16, dtype=np.int32)
    x_btm = np.random.default_rng(0).normal(size=(16, 17, 3)).astype(np.float32)
    stacked_bsi, stacked_lengths_b = stack_frames(x_btm, lengths_b, lfr_m=lfr_m, lfr_n=lfr_n)
    chex.assert_shape(stacked_bsi, (16, -(-17 // lfr_n), lfr_m * 3))
    for x_tm, length, stacked_si, found in zip(x_btm, lengths_b, stacked_bsi, stacked_lengths_b, strict=True):
        assert found == -(-length // lfr_n)
        np.testing.assert_array_equal(stacked_si[found:], 0)
        if length:
            np.testing.assert_array_equal(stacked_si[:found], slow_stack(x_tm[:length], lfr_m, lfr_n))


def test_stacking_keeps_bools():
    hidden_btm = np.array([[[True], [False], [True]]])
    stacked_bsi, _ = stack_frames(hidden_btm, np.array([3], np.int32), lfr_m=3, lfr_n=2)
    np.testing.assert_array_equal(stacked_bsi, [[[True, True, False], [False, True, True]]])
