"""From several channels to one: their mean, a chosen one, or the loudest if the mean cancels them.

Recorders with balanced inputs and widened stereo give channels of opposite sign, whose mean is almost nothing. Channels
cancel if the power of their mean, over a whole file and without constant offsets, is below a tenth of

    (p₁ + … + pₖ) / k²

which is the power of the mean of k uncorrelated channels of powers p.

Letters: n samples, c channels.
"""

import functools
import logging
from pathlib import Path

import numpy as np

log = logging.getLogger("asr")

CANCELLED_SHARE = 0.1


class Mixing:
    """Turns blocks of several channels into blocks of one, and measures them on the way."""

    def __init__(self, channel: int = 0):
        self.channel = channel
        self._num_samples = 0
        self._sums: np.ndarray | float = 0.0

    def __call__(self, block_nc: np.ndarray) -> np.ndarray:
        """Return float32[n] of float32[n, c]; a single channel is returned whatever `channel` is."""
        if block_nc.shape[1] == 1:
            return block_nc[:, 0]
        if self.channel:
            return block_nc[:, self.channel - 1]
        mean_n = block_nc.mean(axis=1)
        block_nk = np.concatenate([block_nc, mean_n[:, None]], axis=1, dtype=np.float64)
        self._sums = self._sums + np.stack([block_nk.sum(axis=0), np.square(block_nk).sum(axis=0)])
        self._num_samples += len(block_nk)
        return mean_n

    @property
    def cancels(self) -> bool:
        """Whether the channels cancel each other in their mean, as far as they were measured."""
        if not self._num_samples:
            return False
        *power_c, power_of_mean = self._powers()
        return power_of_mean < CANCELLED_SHARE * sum(power_c) / len(power_c) ** 2

    @property
    def loudest(self) -> int:
        """The channel of the highest power, from 1."""
        return int(np.argmax(self._powers()[:-1])) + 1

    def _powers(self) -> np.ndarray:
        """Return float64[c + 1], the variance of each channel, and last that of the mean."""
        means, squares = self._sums / self._num_samples
        return np.maximum(squares - means**2, 0.0)


@functools.lru_cache(maxsize=1024)
def warn_of_cancelling(path: Path, channel: int) -> None:
    """Warn, once for each file, that only its loudest channel is read."""
    log.warning(
        "%s: its channels cancel each other out, so only channel %d is read, the loudest; data.channel=N reads another",
        path,
        channel,
    )
