"""The same filterbank as kaldi-native-fbank, whose code shares nothing with ours."""

import numpy as np
import pytest

knf = pytest.importorskip("kaldi_native_fbank")

from asr.ops.fbank import log_mel_filterbank  # noqa: E402


def make_speech(sample_rate_hz, seconds, seed=0):
    """Return pulses of a gliding pitch through three resonances, with pauses, breath and a slight offset."""
    rng = np.random.default_rng(seed)
    num_samples = int(sample_rate_hz * seconds)
    time_n = np.arange(num_samples) / sample_rate_hz
    phase_n = np.cumsum(110 + 40 * np.sin(2 * np.pi * 1.3 * time_n)) / sample_rate_hz
    source_n = np.diff(np.floor(phase_n), prepend=0) + 0.02 * rng.standard_normal(num_samples)
    voice_n = np.zeros(num_samples)
    for centre_hz, width_hz in ((500, 80), (1500, 120), (2500, 160)):
        pole = np.exp(-np.pi * width_hz / sample_rate_hz)
        ringing_n = pole ** np.arange(400) * np.cos(2 * np.pi * centre_hz / sample_rate_hz * np.arange(400))
        voice_n += np.convolve(source_n, ringing_n)[:num_samples]
    loud_n = np.clip(3 * np.sin(2 * np.pi * 2.1 * time_n), 0, 1)
    wave_n = 0.2 * loud_n * voice_n + 1e-3 * rng.standard_normal(num_samples) + 0.01
    return np.round(np.clip(wave_n, -1, 1) * 32767).astype(np.float32) / 32768


def kaldi_filterbank(wave_n, **settings):
    options = knf.FbankOptions()
    frames, mels = options.frame_opts, options.mel_opts
    frames.samp_freq, mels.num_bins = settings["sample_rate_hz"], settings["num_mels"]
    frames.frame_length_ms = settings.get("frame_length_ms", 25.0)
    frames.frame_shift_ms = settings.get("frame_shift_ms", 10.0)
    frames.window_type = settings.get("window", "hamming").replace("hann", "hanning")
    frames.preemph_coeff = settings.get("preemphasis", 0.97)
    frames.dither, frames.snip_edges = 0.0, True
    mels.low_freq, mels.high_freq = settings.get("low_frequency_hz", 20.0), settings.get("high_frequency_hz", 0.0)
    options.energy_floor = 0.0
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(settings["sample_rate_hz"], (wave_n * 32768).tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


@pytest.mark.parametrize(
    "settings",
    [
        {"sample_rate_hz": 16000, "num_mels": 80},
        {"sample_rate_hz": 16000, "num_mels": 40, "window": "povey"},
        {"sample_rate_hz": 16000, "num_mels": 23, "window": "hann", "low_frequency_hz": 64.0, "preemphasis": 0.0},
        {"sample_rate_hz": 8000, "num_mels": 40, "high_frequency_hz": 3700.0},
        {"sample_rate_hz": 44100, "num_mels": 64, "frame_length_ms": 20.0, "frame_shift_ms": 12.5},
        {"sample_rate_hz": 11025, "num_mels": 30},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_values_are_kaldis(settings):
    wave_n = make_speech(settings["sample_rate_hz"], 2.0)
    expected_tm = kaldi_filterbank(wave_n, **settings)
    mel_1tm, lengths_1 = log_mel_filterbank(wave_n[None], np.array([len(wave_n)], np.int32), **settings)
    assert expected_tm.shape == mel_1tm.shape[1:] and int(lengths_1[0]) == len(expected_tm)
    assert np.ptp(expected_tm) > 8
    np.testing.assert_allclose(mel_1tm[0], expected_tm, atol=1e-3)


@pytest.mark.parametrize("num_samples", [0, 399, 400, 559, 560, 16000])
def test_the_number_of_frames_is_kaldis(num_samples):
    wave_n = make_speech(16000, 1.0)[:num_samples]
    computer = knf.OnlineFbank(knf.FbankOptions())
    computer.accept_waveform(16000, (wave_n * 32768).tolist())
    computer.input_finished()
    lengths_1 = np.array([num_samples], np.int32)
    assert int(log_mel_filterbank(wave_n[None], lengths_1, sample_rate_hz=16000, num_mels=23)[1][0]) == (
        computer.num_frames_ready
    )
