"""The front end on the device: from a batch of sound to the normalised, stacked frames that the encoder sees.

Pure functions of arrays, to be jitted by the caller together with the model. In order: level, noise, filterbank,
warping, stacking, normalisation, SpecAugment; the random changes are traced for training only, and only those that the
config switches on. Playing speed is changed on the host (`sounds.audio.change_speed`), since it changes lengths.

Letters: b batch, n samples of sound, t frames (mel frames before stacking, stacked ones after), m mel filters,
i input width (m · lfr_m), j frames in a stack.
"""

import dataclasses
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from asr.config import AugmentConfig, DataConfig, FeaturesConfig
from asr.errors import UserError
from asr.ops.fbank import (
    FULL_SCALE,
    frame_samples,
    log_mel_filterbank,
    mel_filters,
    next_power_of_two,
    num_mel_frames,
    stack_frames,
)
from asr.ops.masks import length_mask
from asr.ops.mel_warp import warp_mel_axis
from asr.ops.spec_augment import spec_augment_masks


@dataclasses.dataclass(frozen=True, eq=False)
class Cmvn:
    """Mean and variance normalisation of stacked frames: (x + shift) · scale."""

    shift: np.ndarray  # float32[i], minus the mean
    scale: np.ndarray  # float32[i], one over the standard deviation


Frontend = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
TrainFrontend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def make_frontend(features: FeaturesConfig, cmvn: Cmvn | None) -> Frontend:
    """Return `frontend(wave_bn, wave_lengths_b) → (features_bti, feature_lengths_b)`: filterbank, stacking, CMVN.

    The returned function maps float32[b, n] in −1…1 and int32[b] to float32[b, t, i], 0 after each utterance's end,
    and int32[b]. An utterance shorter than one window has length 0; t is at least 1. Padding changes no feature.
    Without a CMVN the features are raw log energies.

    Raises:
        UserError: filters too narrow for the spectrum, or a normalisation of another width.
    """
    check_features(features, cmvn)

    def frontend(wave_bn: jax.Array, wave_lengths_b: jax.Array) -> tuple[jax.Array, jax.Array]:
        mel_btm, mel_lengths_b = filterbank(features, wave_bn, wave_lengths_b)
        # Low frame rate: lfr_m neighbouring frames side by side, every lfr_n frames (60 ms by default).
        x_bti, lengths_b = stack_frames(mel_btm, mel_lengths_b, lfr_m=features.lfr_m, lfr_n=features.lfr_n)
        return normalise(x_bti, lengths_b, cmvn), lengths_b

    return frontend


def make_train_frontend(features: FeaturesConfig, data: DataConfig, cmvn: Cmvn | None) -> TrainFrontend:
    """Return `frontend(key, wave_bn, wave_lengths_b) → (features_bti, feature_lengths_b)` with random changes.

    As `make_frontend`, with the level, noise, dither and SpecAugment that the config switches on. Values hidden by
    SpecAugment are set to the mean: exactly 0 after CMVN, and without CMVN each utterance's own mean of that feature.
    """
    check_features(features, cmvn)

    def frontend(key: jax.Array, wave_bn: jax.Array, wave_lengths_b: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Separate keys: with one change switched off, the others draw the same numbers.
        wave_key, mask_key = jax.random.split(key)
        wave_bn = augment_wave(wave_key, wave_bn, wave_lengths_b, data.augment, features.dither)
        mel_btm, mel_lengths_b = filterbank(features, wave_bn, wave_lengths_b)
        if data.augment.max_mel_warp:
            mel_btm = warp_randomly(jax.random.fold_in(key, 1), mel_btm, features, data.augment.max_mel_warp)
        x_bti, lengths_b = stack_frames(mel_btm, mel_lengths_b, lfr_m=features.lfr_m, lfr_n=features.lfr_n)
        normalised_bti = normalise(x_bti, lengths_b, cmvn)
        if not (data.augment.num_mel_masks or data.augment.num_time_masks):
            return normalised_bti, lengths_b
        # Masks are drawn over mel frames and stacked as the frames are: they hide the same sound in every copy of it.
        hidden_bt, hidden_bm = draw_masks(mask_key, mel_lengths_b, mel_btm.shape[1:], data.augment)
        hidden_btj, _ = stack_frames(hidden_bt[..., None], mel_lengths_b, lfr_m=features.lfr_m, lfr_n=features.lfr_n)
        hidden_bti = (hidden_btj[..., None] | hidden_bm[:, None, None, :]).reshape(x_bti.shape)
        # A hidden value becomes the mean, which is 0 after CMVN.
        mean_b1i = 0.0 if cmvn is not None else mean_over_time(normalised_bti, lengths_b)
        hidden_bti &= length_mask(lengths_b, x_bti.shape[1])[..., None]
        return jnp.where(hidden_bti, mean_b1i, normalised_bti), lengths_b

    return frontend


def augment_wave(
    key: jax.Array, wave_bn: jax.Array, wave_lengths_b: jax.Array, augment: AugmentConfig, dither: float = 0.0
) -> jax.Array:
    """Return the sound at another level, with white noise in some utterances, and with dither.

        level    · 10^(g / 20), g uniform in ±gain_db
        noise    of power (mean square of the utterance) / 10^(s / 10), s uniform in noise_snr_db
        dither   of standard deviation dither / 2¹⁵

    An utterance has noise with `noise_probability`. Nothing is clipped, and nothing is added after an utterance's end.
    """
    chex.assert_rank([wave_bn, wave_lengths_b], [2, 1])
    gain_key, power_key, noise_key = jax.random.split(key, 3)
    if augment.gain_db:
        gain_db_b = jax.random.uniform(gain_key, wave_bn.shape[:1], minval=-augment.gain_db, maxval=augment.gain_db)
        wave_bn = wave_bn * jnp.exp(gain_db_b * (math.log(10) / 20))[:, None]
    if not (augment.noise_probability or dither):
        return wave_bn
    real_bn = length_mask(wave_lengths_b, wave_bn.shape[1])
    use_key, snr_key = jax.random.split(power_key)
    low_db, high_db = augment.noise_snr_db
    use_b = jax.random.bernoulli(use_key, augment.noise_probability, wave_lengths_b.shape)
    snr_db_b = jax.random.uniform(snr_key, wave_lengths_b.shape, minval=low_db, maxval=high_db)
    energy_b = jnp.square(jnp.where(real_bn, wave_bn, 0.0)).sum(axis=1)
    power_b = energy_b / jnp.maximum(wave_lengths_b, 1).astype(jnp.float32)
    noise_power_b = jnp.where(use_b, power_b * jnp.exp(snr_db_b * (-math.log(10) / 10)), 0.0)
    # Noise and dither are independent, so their variances add and one draw serves both.
    std_b1 = jnp.sqrt(noise_power_b + (dither / FULL_SCALE) ** 2)[:, None]
    return wave_bn + jnp.where(real_bn, std_b1 * jax.random.normal(noise_key, wave_bn.shape, wave_bn.dtype), 0.0)


def warp_randomly(key: jax.Array, mel_btm: jax.Array, features: FeaturesConfig, max_warp: float) -> jax.Array:
    """Return each utterance with its frequency axis stretched by a factor drawn uniformly from 1 ± `max_warp`."""
    factors_b = jax.random.uniform(key, mel_btm.shape[:1], minval=1 - max_warp, maxval=1 + max_warp)
    high_hz = features.high_frequency_hz or features.sample_rate_hz / 2
    return warp_mel_axis(mel_btm, factors_b, low_frequency_hz=features.low_frequency_hz, high_frequency_hz=high_hz)


def draw_masks(
    key: jax.Array, mel_lengths_b: jax.Array, shape: tuple[int, int], augment: AugmentConfig
) -> tuple[jax.Array, jax.Array]:
    """Return (bool[b, t], bool[b, m]), the mel frames and the filters that SpecAugment hides; `shape` is (t, m)."""
    return spec_augment_masks(
        key,
        mel_lengths_b,
        num_frames=shape[0],
        num_mels=shape[1],
        num_mel_masks=augment.num_mel_masks,
        max_mel_width=augment.max_mel_width,
        num_time_masks=augment.num_time_masks,
        max_time_width=augment.max_time_width,
        max_time_share=augment.max_time_share,
    )


def num_feature_frames(num_samples, features: FeaturesConfig):
    """Return the number of stacked frames of an utterance: ceil(mel frames / lfr_n), 0 if shorter than a window.

    `num_samples` is an int, or an array of integers of any shape.
    """
    window_length = frame_samples(features.sample_rate_hz, features.frame_length_ms)
    shift = frame_samples(features.sample_rate_hz, features.frame_shift_ms)
    return -(-num_mel_frames(num_samples, window_length, shift) // features.lfr_n)


def check_features(features: FeaturesConfig, cmvn: Cmvn | None) -> None:
    """Refuse settings that the filterbank cannot be built with, and a normalisation of another width."""
    fft_length = next_power_of_two(frame_samples(features.sample_rate_hz, features.frame_length_ms))
    low_hz, high_hz = features.low_frequency_hz, features.high_frequency_hz
    mel_filters(features.num_mels, fft_length, features.sample_rate_hz, low_hz, high_hz)
    if cmvn is not None and cmvn.shift.shape + cmvn.scale.shape != (features.input_dim, features.input_dim):
        raise UserError(
            f"CMVN: expected {features.input_dim} values (features.num_mels {features.num_mels} · features.lfr_m "
            f"{features.lfr_m}), found {len(cmvn.shift)} shifts and {len(cmvn.scale)} scales"
        )


def filterbank(features: FeaturesConfig, wave_bn: jax.Array, wave_lengths_b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (mel_btm, mel_lengths_b) of `log_mel_filterbank` with the settings of a config."""
    mel_btm, mel_lengths_b = log_mel_filterbank(
        wave_bn,
        wave_lengths_b,
        sample_rate_hz=features.sample_rate_hz,
        num_mels=features.num_mels,
        frame_length_ms=features.frame_length_ms,
        frame_shift_ms=features.frame_shift_ms,
        window=features.window,
        low_frequency_hz=features.low_frequency_hz,
        high_frequency_hz=features.high_frequency_hz,
        preemphasis=features.preemphasis,
    )
    if features.utterance_mean:
        real_bt1 = length_mask(mel_lengths_b, mel_btm.shape[1])[..., None]
        mel_btm = jnp.where(real_bt1, mel_btm - mean_over_time(mel_btm, mel_lengths_b), 0.0)
    return mel_btm, mel_lengths_b


def normalise(x_bti: jax.Array, lengths_b: jax.Array, cmvn: Cmvn | None) -> jax.Array:
    """Return (x + shift) · scale, and 0 after each utterance's end; `x` itself without a CMVN."""
    chex.assert_rank([x_bti, lengths_b], [3, 1])
    # Padding stays exactly 0, so an utterance has the same features alone and in any batch.
    if cmvn is None:
        return x_bti
    shift_11i, scale_11i = (jnp.asarray(v, jnp.float32)[None, None, :] for v in (cmvn.shift, cmvn.scale))
    return jnp.where(length_mask(lengths_b, x_bti.shape[1])[..., None], (x_bti + shift_11i) * scale_11i, 0.0)


def mean_over_time(x_bti: jax.Array, lengths_b: jax.Array) -> jax.Array:
    """Return float32[b, 1, i], the mean of each feature over an utterance's frames; `x` is 0 after its end."""
    return x_bti.sum(axis=1, keepdims=True) / jnp.maximum(lengths_b, 1)[:, None, None].astype(x_bti.dtype)
