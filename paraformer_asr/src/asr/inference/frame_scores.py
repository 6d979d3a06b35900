"""The scores of a sound's frames: its probability of silence and its level, in pieces of any lengths.

A sound is scored block by block in a few fixed shapes, each compiled once, so a day of it needs no more memory than a
minute. A frame's score does not depend on how the sound was cut: each block begins with the frames that its first
stacks look back to, and the network takes its memories along.

Letters: b batch, n samples, t frames, w samples of a window, i input width, c classes; l blocks, j past frames, d width
of the network's memory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from asr.config import FeaturesConfig
from asr.config.voice_activity import FsmnConfig
from asr.data.frontend import Cmvn, make_frontend
from asr.errors import UserError
from asr.models.fsmn_vad import FsmnVad, empty_past
from asr.ops.fbank import cut_frames, frame_samples, num_mel_frames

BLOCK_FRAMES = (16, 128, 1024)
"""Frames of a block. A piece of a stream takes the smallest that it fits into, a file the largest."""

LEVEL_FLOOR = 1e-6
"""Smallest energy of a window before the logarithm: digital silence has a level of −60 dB."""


class FrameScorer:
    """The compiled programs of one network, for any number of sounds at a time."""

    def __init__(
        self, features: FeaturesConfig, cmvn: Cmvn | None, network: FsmnConfig, variables: Any, silence: tuple[int, ...]
    ):
        self.features, self.network = features, network
        self.variables = jax.device_put(variables)
        self.window = frame_samples(features.sample_rate_hz, features.frame_length_ms)
        self.shift = frame_samples(features.sample_rate_hz, features.frame_shift_ms)
        self.before = (features.lfr_m - 1) // 2  # mel frames that a stack looks back to
        self.after = features.lfr_m - 1 - self.before
        self._score = jax.jit(make_score(features, cmvn, network, silence), static_argnames="num_rows")

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames in a sound of this length."""
        return int(num_mel_frames(num_samples, self.window, self.shift))

    def warm_up(self) -> None:
        """Compile for every size of block."""
        for count in BLOCK_FRAMES:
            silence = np.zeros((count - 1) * self.shift + self.window, np.float32)
            self.score(silence, 0, count, empty_past(self.network))

    def score(self, wave_n: np.ndarray, skip: int, count: int, past_lbjd: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return (silence_t, level_db_t, past) of `count` frames, the first of which is frame `skip` of the wave."""
        num_rows = next(size for size in BLOCK_FRAMES if size >= count)
        block_1n = np.zeros((1, (num_rows + self.before + self.after - 1) * self.shift + self.window), np.float32)
        block_1n[0, : len(wave_n)] = wave_n
        numbers = (np.int32(number) for number in (len(wave_n), skip, count))
        *scores, past_lbjd = self._score(self.variables, block_1n, *numbers, past_lbjd, num_rows=num_rows)
        silence_t, level_db_t = (np.asarray(row)[:count] for row in scores)
        return silence_t, level_db_t, past_lbjd


def make_score(
    features: FeaturesConfig, cmvn: Cmvn | None, network: FsmnConfig, silence: tuple[int, ...]
) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """Return `score(variables, wave_1n, num_samples, skip, count, past, *, num_rows) → (silence_t, level_db_t, past)`.

    silence[t] = Σ_c softmax(logits[t])[c] over the classes of silence;  level_db[t] = 10 · log₁₀(Σ_w wave[w]² + 1e-6)

    `wave_1n` holds `num_samples` real ones; `skip` frames at its start are there only to be looked back to, and
    `count` of the `num_rows` frames behind them are real.
    """
    frontend, model = make_frontend(features, cmvn), FsmnVad(network)
    window = frame_samples(features.sample_rate_hz, features.frame_length_ms)
    shift = frame_samples(features.sample_rate_hz, features.frame_shift_ms)

    def score(variables, wave_1n, num_samples, skip, count, past_lbjd, *, num_rows: int):
        features_1ti, _ = frontend(wave_1n, num_samples[None])
        rows_1ti = jax.lax.dynamic_slice_in_dim(features_1ti, skip, num_rows, axis=1)
        with jax.default_matmul_precision("highest"):  # a GPU would round the factors to 10 bits
            logits_1tc, past_lbjd = model.apply(variables, rows_1ti, past_lbjd, count)
        silence_t = jax.nn.softmax(logits_1tc[0])[:, jnp.array(silence)].sum(axis=-1)
        energy_t = jnp.square(cut_frames(wave_1n, window, shift)[0]).sum(axis=-1)
        level_db_t = 10 * jnp.log10(jax.lax.dynamic_slice_in_dim(energy_t, skip, num_rows) + LEVEL_FLOOR)
        return silence_t, level_db_t, past_lbjd

    return score


class ScoredSound:
    """A sound that arrives in pieces, and the scores of its frames as soon as they are certain.

    The last frames wait until the sound goes on or ends: a stack looks ahead, and the last frame of a sound counts as
    such.
    """

    def __init__(self, scorer: FrameScorer):
        self._scorer, self._past = scorer, empty_past(scorer.network)
        self._wave_n = np.zeros(0, np.float32)  # the samples that are still needed
        self._dropped = self._done = 0  # frames whose start is no longer in them; frames that have their scores
        self.num_samples = 0

    def push(self, wave_n: np.ndarray, final: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return (silence_t, level_db_t), the scores that the next samples complete; all others if `final`.

        Raises:
            UserError: a sample is NaN or infinite, or too large to compute with.
        """
        scorer = self._scorer
        self._wave_n = np.concatenate([self._wave_n, wave_n])
        self.num_samples += len(wave_n)
        num_frames = scorer.num_frames(self.num_samples)
        ready = num_frames if final else max(num_frames - max(scorer.after, 1), self._done)
        scores = [(np.zeros(0, np.float32), np.zeros(0, np.float32))]
        while self._done < ready:
            count = min(ready - self._done, BLOCK_FRAMES[-1])
            first, stop = max(self._done - scorer.before, 0), min(self._done + count + scorer.after, num_frames)
            block_n = self._samples(first, (stop - 1) * scorer.shift + scorer.window)
            *score, self._past = scorer.score(block_n, self._done - first, count, self._past)
            scores.append(score)
            self._done += count
        self._drop(max(self._done - scorer.before, 0))
        silence_t, level_db_t = (np.concatenate(parts) for parts in zip(*scores, strict=True))
        if not (np.isfinite(silence_t).all() and np.isfinite(level_db_t).all()):
            raise UserError("the sound cannot be scored: a sample is NaN, infinite or far beyond −1…1")
        return silence_t, level_db_t

    def _samples(self, first: int, stop: int) -> np.ndarray:
        """Return the samples from the start of a frame up to sample `stop`."""
        offset = self._dropped * self._scorer.shift
        return self._wave_n[first * self._scorer.shift - offset : stop - offset]

    def _drop(self, frames: int) -> None:
        self._wave_n = self._wave_n[(frames - self._dropped) * self._scorer.shift :]
        self._dropped = frames
