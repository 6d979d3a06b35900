"""The front end: an utterance alone and padded has the same features; random changes stay where they belong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.config import AugmentConfig, DataConfig, FeaturesConfig
from asr.data import frontend as fe
from asr.data.frontend import (
    Cmvn,
    augment_wave,
    draw_masks,
    make_frontend,
    make_train_frontend,
    num_feature_frames,
)
from asr.errors import UserError
from asr.ops.fbank import log_mel_filterbank

FEATURES = FeaturesConfig(sample_rate_hz=8000, num_mels=12, lfr_m=3, lfr_n=2)
WIDTH = FEATURES.input_dim
CMVN = Cmvn(np.linspace(-9, -5, WIDTH, dtype=np.float32), np.linspace(0.2, 0.5, WIDTH, dtype=np.float32))
MASKS = AugmentConfig(
    gain_db=0.0, num_mel_masks=1, max_mel_width=6, num_time_masks=1, max_time_width=20, max_time_share=1.0
)


def make_batch(*lengths, padding=0.0):
    rng = np.random.default_rng(0)
    wave_bn = np.full((len(lengths), max(lengths)), padding, np.float32)
    for row, length in zip(wave_bn, lengths, strict=True):
        row[:length] = 0.1 * rng.standard_normal(length)
    return wave_bn, np.array(lengths, np.int32)


def data_config(**augment):
    """Settings without any random change but those given."""
    return DataConfig(augment=AugmentConfig(**{"gain_db": 0.0} | augment))


def test_features_are_filterbank_stacking_and_normalisation():
    wave_bn, lengths_b = make_batch(4000)
    features_bti, feature_lengths_b = make_frontend(FEATURES, CMVN)(wave_bn, lengths_b)
    mel = np.asarray(log_mel_filterbank(wave_bn, lengths_b, sample_rate_hz=8000, num_mels=12)[0][0])
    frame = np.clip(2 * np.arange(24)[:, None] + np.array([-1, 0, 1]), 0, len(mel) - 1)
    expected = (mel[frame].reshape(24, WIDTH) + CMVN.shift) * CMVN.scale
    assert feature_lengths_b.tolist() == [24] and features_bti.dtype == jnp.float32
    np.testing.assert_allclose(features_bti[0], expected, rtol=1e-5, atol=1e-5)


def test_every_setting_of_the_filterbank_is_passed_on():
    wave_bn, lengths_b = make_batch(4000)
    settings = {
        "frame_length_ms": 20.0,
        "frame_shift_ms": 8.0,
        "window": "povey",
        "low_frequency_hz": 100.0,
        "high_frequency_hz": 3500.0,
        "preemphasis": 0.5,
    }
    features = dataclasses.replace(FEATURES, lfr_m=1, lfr_n=1, **settings)
    expected, lengths = log_mel_filterbank(wave_bn, lengths_b, sample_rate_hz=8000, num_mels=12, **settings)
    found, feature_lengths_b = make_frontend(features, None)(wave_bn, lengths_b)
    np.testing.assert_array_equal(found, expected)
    assert feature_lengths_b.tolist() == lengths.tolist() == [num_feature_frames(4000, features)]


def test_an_utterance_has_the_same_features_alone_and_padded_and_zeros_behind_them():
    wave_bn, lengths_b = make_batch(5000, 1777, 150, 0, padding=np.nan)
    frontend = make_frontend(FEATURES, CMVN)
    features_bti, feature_lengths_b = frontend(wave_bn, lengths_b)
    assert feature_lengths_b.tolist() == [31, 10, 0, 0] and features_bti.shape == (4, 31, WIDTH)
    for row in range(4):
        length = int(feature_lengths_b[row])
        np.testing.assert_array_equal(features_bti[row, length:], 0)
        if length:
            alone_1ti, _ = frontend(wave_bn[row : row + 1, : lengths_b[row]], lengths_b[row : row + 1])
            np.testing.assert_allclose(features_bti[row, :length], alone_1ti[0], atol=1e-4)


@pytest.mark.parametrize("gain", [0.05, 3.0])
def test_without_an_utterances_mean_its_level_does_not_matter(gain):
    wave_bn, lengths_b = make_batch(5000, 1777, 150, 0)
    frontend = make_frontend(dataclasses.replace(FEATURES, utterance_mean=True, lfr_m=1, lfr_n=1), None)
    features_bti, frames_b = frontend(wave_bn, lengths_b)
    np.testing.assert_allclose(frontend(gain * wave_bn, lengths_b)[0], features_bti, atol=1e-3)
    for features_ti, num_frames in zip(np.asarray(features_bti), frames_b.tolist(), strict=True):
        np.testing.assert_allclose(features_ti.sum(axis=0), 0, atol=1e-3)
        assert not features_ti[num_frames:].any() and (not num_frames or features_ti[:num_frames].std() > 0.3)


def test_training_warps_each_utterance_anew_and_leaves_its_padding():
    wave_bn, lengths_b = make_batch(5000, 1777)
    plain_bti, frames_b = make_frontend(FEATURES, CMVN)(wave_bn, lengths_b)
    frontend = make_train_frontend(FEATURES, data_config(max_mel_warp=0.2), CMVN)
    first, again, second = (frontend(jax.random.key(seed), wave_bn, lengths_b)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    for other in (plain_bti, second):
        assert np.abs(first - other).max(axis=(1, 2)).min() > 0.1
    assert not np.asarray(first[1, int(frames_b[1]) :]).any()


def test_a_batch_of_nothing_but_too_short_sound_has_one_empty_frame():
    features_bti, feature_lengths_b = make_frontend(FEATURES, CMVN)(*make_batch(20, 3))
    assert features_bti.shape == (2, 1, WIDTH) and feature_lengths_b.tolist() == [0, 0]
    assert not np.asarray(features_bti).any()


@pytest.mark.parametrize("features", [FEATURES, FeaturesConfig(), FeaturesConfig(lfr_m=9, frame_shift_ms=30.0)])
def test_the_number_of_frames_is_known_beforehand(features):
    num_samples = np.array([0, 199, 200, 399, 400, 559, 560, 6000, 6001])
    frontend = jax.jit(make_frontend(features, None))
    found = frontend(np.zeros((9, 6001), np.float32), num_samples.astype(np.int32))[1]
    np.testing.assert_array_equal(num_feature_frames(num_samples, features), found)
    assert [num_feature_frames(int(n), features) for n in num_samples] == found.tolist()
    assert all(isinstance(num_feature_frames(int(n), features), int) for n in num_samples)


def test_a_cmvn_of_another_width_and_too_many_filters_are_refused_at_once():
    wrong = Cmvn(np.zeros(7, np.float32), np.ones(7, np.float32))
    for make in (make_frontend, lambda features, cmvn: make_train_frontend(features, data_config(), cmvn)):
        with pytest.raises(UserError, match=r"expected 36 values .*num_mels 12 · features.lfr_m 3.*found 7 shifts"):
            make(FEATURES, wrong)
        with pytest.raises(UserError, match="num_mels 200"):
            make(dataclasses.replace(FEATURES, num_mels=200), None)


def test_training_without_changes_is_the_same_function(key):
    batch = make_batch(3000, 1000)
    frontend = make_train_frontend(FEATURES, data_config(), CMVN)
    expected = make_frontend(FEATURES, CMVN)(*batch)
    jax.tree.map(np.testing.assert_array_equal, frontend(key, *batch), expected)
    traced = str(jax.make_jaxpr(frontend)(key, *batch))
    assert "random_bits" not in traced and "threefry" not in traced  # what is off is not computed


def test_all_changes_together_are_pure_in_the_key(keys):
    data = DataConfig(augment=dataclasses.replace(MASKS, gain_db=6.0, noise_probability=0.5))
    frontend = jax.jit(make_train_frontend(dataclasses.replace(FEATURES, dither=1.0), data, CMVN))
    batch, first, second = make_batch(3000, 1000, 100), keys(), keys()
    features_bti, lengths_b = frontend(first, *batch)
    np.testing.assert_array_equal(features_bti, frontend(first, *batch)[0])
    assert (features_bti[0] != frontend(second, *batch)[0][0]).mean() > 0.5
    assert lengths_b.tolist() == [18, 6, 0]
    assert np.isfinite(features_bti).all()
    for features_ti, length in zip(np.asarray(features_bti), lengths_b, strict=True):
        assert not features_ti[length:].any()


@pytest.mark.parametrize("cmvn", [CMVN, None], ids=["cmvn", "raw"])
def test_hidden_values_are_the_mean_and_all_others_untouched(cmvn, key):
    batch = make_batch(4000, 2000)
    data = DataConfig(augment=MASKS)
    found_bti, lengths_b = make_train_frontend(FEATURES, data, cmvn)(key, *batch)
    plain_bti, _ = make_frontend(FEATURES, cmvn)(*batch)
    mel_lengths_b = np.array([48, 23], np.int32)
    hidden_bt, hidden_bm = map(
        np.asarray, draw_masks(jax.random.split(key)[1], mel_lengths_b, (48, FEATURES.num_mels), MASKS)
    )
    assert hidden_bt.any(axis=1).all() and hidden_bm.any(axis=1).all()
    for b, length in enumerate(lengths_b):
        frame_tj = np.clip(2 * np.arange(length)[:, None] + np.array([-1, 0, 1]), 0, mel_lengths_b[b] - 1)
        hidden_ti = (hidden_bt[b][frame_tj][:, :, None] | hidden_bm[b]).reshape(length, WIDTH)
        plain_ti = np.asarray(plain_bti[b, :length])
        mean_i = np.zeros(WIDTH) if cmvn is not None else plain_ti.mean(axis=0)
        expected_ti = np.where(hidden_ti, mean_i, plain_ti)
        np.testing.assert_allclose(found_bti[b, :length], expected_ti, rtol=1e-6, atol=0)
        assert not np.asarray(found_bti[b, length:]).any()


def test_gain_is_one_level_for_each_utterance_within_its_range(key):
    wave_bn = jnp.ones((4000, 3))
    changed_bn = augment_wave(key, wave_bn, jnp.full(4000, 3, jnp.int32), data_config(gain_db=6.0).augment)
    level_db_b = 20 * np.log10(np.asarray(changed_bn)[:, 0])
    np.testing.assert_array_equal(changed_bn, np.repeat(np.asarray(changed_bn)[:, :1], 3, axis=1))
    assert -6.001 < level_db_b.min() < -5.9 and 5.9 < level_db_b.max() < 6.001
    assert abs(level_db_b.mean()) < 0.2  # even in dB, not in amplitude


def test_noise_has_the_ratio_drawn_and_stays_within_the_utterance(key):
    lengths_b = jnp.full(400, 1000, jnp.int32).at[:3].set(jnp.array([0, 500, 1000]))
    wave_bn = jnp.where(jnp.arange(1500)[None] < lengths_b[:, None], 0.3, 9.0).at[2].set(0.0)  # 9: never looked at
    augment = data_config(noise_probability=0.5, noise_snr_db=(10.0, 20.0)).augment
    noise_bn = np.asarray(augment_wave(key, wave_bn, lengths_b, augment) - wave_bn)
    assert not noise_bn[np.arange(1500)[None] >= np.asarray(lengths_b)[:, None]].any()
    assert not noise_bn[2].any()  # silence has no noise to be in a ratio with
    power_b = np.square(noise_bn[3:, :1000]).mean(axis=1)
    noisy_b = power_b > 0
    assert 0.42 < noisy_b.mean() < 0.58
    ratio_db_b = 10 * np.log10(0.09 / power_b[noisy_b])
    assert 9.5 < ratio_db_b.min() < 10.5 and 19.5 < ratio_db_b.max() < 20.5 and 14.5 < ratio_db_b.mean() < 15.5


def test_dither_is_in_units_of_a_16_bit_step(key):
    wave_bn, lengths_b = jnp.zeros((2, 20_000)), jnp.array([20_000, 5000], jnp.int32)
    noise_bn = np.asarray(augment_wave(key, wave_bn, lengths_b, data_config().augment, dither=2.0))
    np.testing.assert_allclose(noise_bn[0].std() * 32768, 2.0, rtol=0.03)
    assert noise_bn[1, :5000].any() and not noise_bn[1, 5000:].any()
    assert abs(np.corrcoef(noise_bn[0, :5000], noise_bn[1, :5000])[0, 1]) < 0.05


def test_the_mean_over_time_leaves_the_padding_out():
    x_bti = jnp.array([[[1.0], [3.0], [0.0]], [[0.0], [0.0], [0.0]]])
    np.testing.assert_array_equal(fe.mean_over_time(x_bti, jnp.array([2, 0], jnp.int32)), [[[2.0]], [[0.0]]])
