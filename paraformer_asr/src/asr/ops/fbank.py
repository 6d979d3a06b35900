"""Log-mel filterbank as Kaldi computes it, batched and jitted, and the stacking of its frames.

Kaldi's steps, here and there in float32: cut the sound into frames, remove each frame's mean, pre-emphasise,
multiply by a window, fill up with zeros to a power of two, transform, square, sum under triangles that are equally
wide in mel, take the logarithm. A frame exists where its whole window lies inside the sound ("snip edges").

Letters: b batch, n samples of sound, t frames, m mel filters, w samples of a window, k bins of the spectrum,
s stacked frames, i width of a stacked frame.

Reference: Kaldi, feat/feature-window.cc, feat/feature-fbank.cc and feat/mel-computations.cc.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from asr.errors import UserError
from asr.ops.masks import length_mask

FULL_SCALE = 32768.0  # Kaldi reads 16-bit samples as they are: a wave in −1…1 is multiplied by this first
ENERGY_FLOOR = float(np.finfo(np.float32).eps)
"""Smallest energy before the logarithm, as in Kaldi; so silence is log(1.19e-7) = −15.94 in every filter."""

WINDOWS = ("hamming", "hann", "povey")
_SETTINGS = ("sample_rate_hz", "num_mels", "frame_length_ms", "frame_shift_ms", "window", "low_frequency_hz")
_SETTINGS += ("high_frequency_hz", "preemphasis")


@functools.partial(jax.jit, static_argnames=_SETTINGS)
def log_mel_filterbank(
    wave_bn,
    wave_lengths_b,
    *,
    sample_rate_hz: int,
    num_mels: int,
    frame_length_ms: float = 25.0,
    frame_shift_ms: float = 10.0,
    window: str = "hamming",
    low_frequency_hz: float = 20.0,
    high_frequency_hz: float = 0.0,
    preemphasis: float = 0.97,
):
    """Return the logarithm of the energy under each mel filter, frame by frame.

    mel[t, m] = log(max(Σ_k filters[k, m] · abs(rfft(windowed[t])[k])², 1.19e-7))

    A frame depends on the samples of its own window only: padding changes nothing. Dither is left to the caller,
    who may add noise to the wave.

    Args:
        wave_bn: float32[b, n], sound, full scale −1…1; what lies behind an utterance's end is not looked at.
        wave_lengths_b: int32[b], samples of each utterance, 0 … n.
        sample_rate_hz: samples in one second.
        num_mels: number m of filters.
        frame_length_ms: length of the window.
        frame_shift_ms: distance of two windows.
        window: its shape, "hamming", "hann" or "povey" (hann to the power of 0.85).
        low_frequency_hz: lower edge of the lowest filter.
        high_frequency_hz: upper edge of the highest filter; 0 is half the sample rate.
        preemphasis: share of the sample before that is subtracted from each.

    Returns:
        mel_btm: float32[b, t, m], natural logarithms of energies in squared 16-bit steps; 0 behind the last frame.
        t is what n samples give, and at least 1.
        mel_lengths_b: int32[b], frames of each utterance; 0 where it is shorter than a window.

    Raises:
        UserError: a filter so narrow that no bin of the spectrum lies in it.
    """
    chex.assert_rank(wave_bn, 2)
    chex.assert_shape(wave_lengths_b, wave_bn.shape[:1])
    chex.assert_type([wave_bn, wave_lengths_b], [jnp.float32, jnp.int32])
    window_length, shift = frame_samples(sample_rate_hz, frame_length_ms), frame_samples(sample_rate_hz, frame_shift_ms)
    frames_btw = cut_frames(wave_bn * FULL_SCALE, window_length, shift)
    # A constant offset is no sound. Pre-emphasis lifts the high frequencies, where speech has little energy.
    frames_btw = emphasise(frames_btw - frames_btw.mean(axis=-1, keepdims=True), preemphasis)
    # Without a taper, a sine that is cut off would spread over all bins.
    frames_btw = frames_btw * jnp.asarray(window_shape(window, window_length))[None, None, :]
    # Zeros up to a power of two make the transform fast, and its bins finer.
    fft_length = next_power_of_two(window_length)
    spectrum_btk = jnp.fft.rfft(frames_btw, n=fft_length)[..., :-1]  # Kaldi's filters leave out the last bin
    power_btk = jnp.square(spectrum_btk.real) + jnp.square(spectrum_btk.imag)
    filters_km = mel_filters(num_mels, fft_length, sample_rate_hz, low_frequency_hz, high_frequency_hz)
    # A GPU would round the factors to 10 bits by default.
    energy_btm = jnp.einsum("btk,km->btm", power_btk, filters_km, precision=jax.lax.Precision.HIGHEST)
    # The ear hears ratios of energy; the floor keeps silence finite.
    mel_btm = jnp.log(jnp.maximum(energy_btm, ENERGY_FLOOR))
    # Frames behind the end of an utterance are 0, whatever its padding holds.
    mel_lengths_b = num_mel_frames(wave_lengths_b, window_length, shift)
    valid_bt = length_mask(mel_lengths_b, mel_btm.shape[1])
    return jnp.where(valid_bt[..., None], mel_btm, 0.0), mel_lengths_b


def frame_samples(sample_rate_hz: int, length_ms: float) -> int:
    """Return the number of whole samples in `length_ms`, rounded down as Kaldi does."""
    return int(sample_rate_hz * 0.001 * length_ms)


def num_mel_frames(num_samples, window_length: int, shift: int):
    """Return how many windows lie inside the sound: 1 + (num_samples − window_length) // shift, or 0.

    `num_samples` is an int, or an array of integers (numpy or jax) of any shape.
    """
    return ((num_samples - window_length) // shift + 1) * (num_samples >= window_length)


def cut_frames(wave_bn: jax.Array, window_length: int, shift: int) -> jax.Array:
    """Return float[b, t, w], the windows that overlap by w − shift samples; a shorter sound is filled up to one.

    Every window is made of ceil(w / shift) pieces of `shift` samples that lie side by side: copying these is
    several times faster than gathering single samples.
    """
    num_frames = max(int(num_mel_frames(wave_bn.shape[1], window_length, shift)), 1)
    num_pieces = math.ceil(window_length / shift)
    num_samples = (num_frames + num_pieces - 1) * shift
    wave_bn = jnp.pad(wave_bn, ((0, 0), (0, max(num_samples - wave_bn.shape[1], 0))))[:, :num_samples]
    pieces_btw = wave_bn.reshape(wave_bn.shape[0], -1, shift)
    shifted = [pieces_btw[:, i : i + num_frames] for i in range(num_pieces)]
    return jnp.concatenate(shifted, axis=-1)[..., :window_length]


def emphasise(frames_btw: jax.Array, coefficient: float) -> jax.Array:
    """Return x[w] − coefficient · x[w−1], where the sample before the first is the first itself."""
    before_btw = jnp.concatenate([frames_btw[..., :1], frames_btw[..., :-1]], axis=-1)
    return frames_btw - coefficient * before_btw


@functools.lru_cache(maxsize=16)
def window_shape(window: str, window_length: int) -> np.ndarray:
    """Return float32[w], symmetric, its first and last values being those of the full cosine."""
    cosine_w = np.cos(2 * np.pi * np.arange(window_length) / (window_length - 1))
    match window:
        case "hamming":
            shape_w = 0.54 - 0.46 * cosine_w
        case "hann":
            shape_w = 0.5 - 0.5 * cosine_w
        case "povey":
            shape_w = (0.5 - 0.5 * cosine_w) ** 0.85
        case _:
            raise ValueError(f"window: expected one of {', '.join(WINDOWS)}, found {window!r}")
    return shape_w.astype(np.float32)


def next_power_of_two(length: int) -> int:
    """Return the smallest power of two that is not below `length`."""
    return 1 << (length - 1).bit_length()


def mel_scale(frequency_hz):
    """Return the pitch in mel: 1127 · ln(1 + f / 700)."""
    return 1127.0 * np.log1p(np.asarray(frequency_hz) / 700.0)


@functools.lru_cache(maxsize=16)
def mel_filters(
    num_mels: int, fft_length: int, sample_rate_hz: int, low_frequency_hz: float, high_frequency_hz: float
) -> np.ndarray:
    """Return float32[k, m], k = fft_length / 2: triangles on the mel scale, each as high as 1.

    The corners are equally far apart in mel from `low_frequency_hz` to `high_frequency_hz` (0: half the sample
    rate), and each filter begins and ends where its neighbours have their tops.

    Raises:
        UserError: a filter so narrow that no bin of the spectrum lies in it.
    """
    low_mel, high_mel = mel_scale(low_frequency_hz), mel_scale(high_frequency_hz or sample_rate_hz / 2)
    # Equal steps in mel: narrow filters for low pitches, wide ones above, as the ear has them.
    corners_c = np.linspace(low_mel, high_mel, num_mels + 2)
    bins_k = mel_scale(np.arange(fft_length // 2) * (sample_rate_hz / fft_length))
    left_1m, top_1m, right_1m = (corners_c[None, i : i + num_mels] for i in range(3))
    # Each triangle is the lower of a rising and a falling line.
    rising_km = (bins_k[:, None] - left_1m) / (top_1m - left_1m)
    falling_km = (right_1m - bins_k[:, None]) / (right_1m - top_1m)
    filters_km = np.maximum(np.minimum(rising_km, falling_km), 0.0)
    empty_m = ~(filters_km > 0).any(axis=0)
    if empty_m.any():
        raise UserError(
            f"features.num_mels {num_mels}: filter {int(empty_m.argmax()) + 1} lies between two bins of the spectrum "
            f"({fft_length} points at {sample_rate_hz} Hz); use fewer filters or a larger features.frame_length_ms"
        )
    return filters_km.astype(np.float32)


@functools.partial(jax.jit, static_argnames=("lfr_m", "lfr_n"))
def stack_frames(x_btm, lengths_b, *, lfr_m: int, lfr_n: int):
    """Return `lfr_m` neighbouring frames side by side, every `lfr_n` frames (low frame rate).

    stacked[s] = [x[clip(s · lfr_n + j − (lfr_m − 1) // 2, 0, length − 1)] for j = 0 … lfr_m − 1]

    So the first frame of an utterance is repeated before it, and its last behind it.

    Args:
        x_btm: [b, t, m], frames of any dtype; those behind an utterance's end are not looked at.
        lengths_b: int32[b], frames of each utterance, 0 … t.
        lfr_m: frames in a stack.
        lfr_n: frames from one stack to the next.

    Returns:
        stacked_bsi: [b, ceil(t / lfr_n), lfr_m · m], 0 (False) behind the last stack.
        stacked_lengths_b: int32[b], ceil(length / lfr_n).

    Reference: FunASR, frontends/wav_frontend.py, apply_lfr.
    """
    chex.assert_rank(x_btm, 3)
    chex.assert_shape(lengths_b, x_btm.shape[:1])
    chex.assert_type(lengths_b, jnp.int32)
    batch, num_frames, width = x_btm.shape
    num_stacks = math.ceil(num_frames / lfr_n)
    offset_sj = lfr_n * np.arange(num_stacks)[:, None] + np.arange(lfr_m)[None, :] - (lfr_m - 1) // 2
    last_b11 = jnp.maximum(lengths_b - 1, 0)[:, None, None]
    # Clipping repeats the first and the last frame, so that every stack is full.
    frame_bsj = jnp.clip(jnp.asarray(offset_sj, jnp.int32)[None], 0, last_b11)
    stacked_bjm = jnp.take_along_axis(x_btm, frame_bsj.reshape(batch, -1, 1), axis=1)
    stacked_bsi = stacked_bjm.reshape(batch, num_stacks, lfr_m * width)
    stacked_lengths_b = -(-lengths_b // lfr_n)
    valid_bs = length_mask(stacked_lengths_b, num_stacks)
    return jnp.where(valid_bs[..., None], stacked_bsi, jnp.zeros((), x_btm.dtype)), stacked_lengths_b
