"""Another speaker's vocal tract: the frequency axis of a filterbank, stretched.

A vocal tract that is shorter by a tenth has its resonances a tenth higher; what is said stays the same.

Letters: b batch, t frames, m mel filters, k the same filters before the stretch.

Reference: Jaitly & Hinton 2013, Vocal tract length perturbation (VTLP) improves speech recognition.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from asr.ops.fbank import mel_scale


@functools.partial(jax.jit, static_argnames=("low_frequency_hz", "high_frequency_hz"))
def warp_mel_axis(mel_btm, factors_b, *, low_frequency_hz: float, high_frequency_hz: float):
    """Return what each filter would hear if all frequencies were `factor` times as high.

    warped[m] = mel at place(centre[m] / factor), between two filters in proportion to their distances

    Beyond the lowest and the highest filter, the outermost value is repeated.

    Args:
        mel_btm: float32[b, t, m], log energies.
        factors_b: float32[b], above 0; 1 changes nothing.
        low_frequency_hz: lower edge of the lowest filter.
        high_frequency_hz: upper edge of the highest filter.

    Returns:
        float32[b, t, m].
    """
    chex.assert_rank([mel_btm, factors_b], [3, 1])
    num_mels = mel_btm.shape[2]
    low_mel, high_mel = float(mel_scale(low_frequency_hz)), float(mel_scale(high_frequency_hz))
    width_mel = (high_mel - low_mel) / (num_mels + 1)  # from one centre to the next
    centre_m = low_mel + width_mel * np.arange(1, num_mels + 1)
    centre_hz_m = 700.0 * np.expm1(centre_m / 1127.0)
    source_mel_bm = 1127.0 * jnp.log1p(jnp.asarray(centre_hz_m / 700.0, jnp.float32)[None, :] / factors_b[:, None])
    place_bm = jnp.clip((source_mel_bm - low_mel) / width_mel - 1.0, 0.0, num_mels - 1.0)
    # A filter's share falls linearly to 0 at its neighbours: linear interpolation as a matrix product.
    weight_bkm = jnp.maximum(1.0 - jnp.abs(place_bm[:, None, :] - jnp.arange(num_mels)[None, :, None]), 0.0)
    return jnp.einsum("btk,bkm->btm", mel_btm, weight_bkm, precision="highest")
