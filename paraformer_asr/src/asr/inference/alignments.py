"""The alignment of frames and tokens that an evaluation draws.

Letters: b batch, n samples, t frames, m mel filters, u token positions.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from asr.data.frontend import filterbank, num_feature_frames
from asr.decode import greedy
from asr.inference.programs import make_listen
from asr.inference.shapes import row_counts
from asr.inference.transcriber import Transcriber
from asr.record.evaluation import Aligned


def align_waves(transcriber: Transcriber, waves: Sequence[np.ndarray]) -> list[Aligned]:
    """Return the alignment of each sound, by the parallel decoder, regardless of `inference.decoder`.

    Compiles one program, for the longest sound.
    """
    if not waves:
        return []
    longest = max(map(len, waves))
    align = functools.partial(jax.jit(_make_align(transcriber, longest)), transcriber.variables)
    return [_align_one(transcriber, align, wave, longest) for wave in waves]


def _make_align(transcriber: Transcriber, num_samples: int) -> Callable[..., tuple[jax.Array, ...]]:
    """Return `align(variables, wave_bn, wave_lengths_b) → (mel_btm, alignment_but, ids_bu, and their lengths)`."""
    config = transcriber.config
    model, listen = transcriber.model, make_listen(config, transcriber.cmvn, transcriber.model)
    *_, num_rows = row_counts(num_feature_frames(num_samples, config.features), config.model.predictor.smooth_factor)

    def align(variables: Any, wave_bn: jax.Array, wave_lengths_b: jax.Array) -> tuple[jax.Array, ...]:
        mel_btm, mel_lengths_b = filterbank(config.features, wave_bn, wave_lengths_b)
        acoustics = listen(variables, wave_bn, wave_lengths_b).acoustics
        hypotheses = model.apply(variables, acoustics, num_rows, method="decode")
        ids_bu, _ = greedy(hypotheses.logits_buv, hypotheses.token_lengths_b)
        lengths = mel_lengths_b, acoustics.frame_lengths_b, hypotheses.token_lengths_b
        return mel_btm, hypotheses.alignment_but, ids_bu, *lengths

    return align


def _align_one(transcriber: Transcriber, align: Callable, wave: np.ndarray, longest: int) -> Aligned:
    wave_1n = np.pad(wave, (0, longest - len(wave)))[None]
    arrays = jax.device_get(align(wave_1n, np.array([len(wave)], np.int32)))
    mel_tm, alignment_ut, ids_u, num_mels, num_frames, num_tokens = (values[0] for values in arrays)
    names = transcriber.tokenizer.tokens
    ids = tuple(ids_u[:num_tokens].tolist())
    return Aligned(mel_tm[:num_mels], alignment_ut[:num_tokens, : num_frames + 1], tuple(names[i] for i in ids), ids)
