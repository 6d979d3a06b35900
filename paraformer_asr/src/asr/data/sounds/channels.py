"""From several channels to one: their mean, the one that was asked for, or the loudest where the mean cancels them.

Recorders with balanced inputs and widened stereo give channels of opposite sign, whose mean is next to nothing. The
rule, over a whole file and without constant offsets: the channels cancel if the power of their mean is below a tenth of

    (p₁ + … + pₖ) / k²

which is the power of the mean of k channels, of powers p, that have nothing in common.

Letters: n samples, c channels.
"""

import functools
import logging
from pathlib import Path

import numpy as np

log = logging.getLogger("asr")

CANCELLED_SHARE = 0.1


class Mixing:
    """Blocks of several channels to blocks of one, measured while they pass.

    Attributes:
        channel: the one that is read, from 1; 0: their mean.
    """

    def __init__(self, channel: int = 0):
        self.channel = channel
        self._num_samples = 0
        self._sums: np.ndarray | None = None

    def __call__(self, block_nc: np.ndarray) -> np.ndarray:
        """Return float32[n] of float32[n, c]; a single channel is itself, whichever was asked for."""
        if block_nc.shape[1] == 1:
            return block_nc[:, 0]
        if self.channel:
            return block_nc[:, self.channel - 1]
        mean_n = block_nc.mean(axis=1)
        self._measure(np.concatenate([block_nc, mean_n[:, None]], axis=1, dtype=np.float64))
        return mean_n

    def _measure(self, block_nk: np.ndarray) -> None:
        sums = np.stack([block_nk.sum(axis=0), np.square(block_nk).sum(axis=0)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._num_samples += len(block_nk)

    @property
    def cancels(self) -> bool:
        """Whether the mean of what has passed is no picture of it."""
        if self._sums is None:
            return False
        *power_c, power_of_mean = self._powers()
        return power_of_mean < CANCELLED_SHARE * sum(power_c) / len(power_c) ** 2

    @property
    def loudest(self) -> int:
        """The channel of the highest power, from 1."""
        return int(np.argmax(self._powers()[:-1])) + 1

    def _powers(self) -> np.ndarray:
        """Return float64[c + 1], the variance of each channel, and behind them of the mean."""
        means, squares = self._sums / max(self._num_samples, 1)
        return np.maximum(squares - means**2, 0.0)


@functools.lru_cache(maxsize=1024)
def warn_of_cancelling(path: Path, channel: int) -> None:
    """Warn, once for each file, that its loudest channel stands for all."""
    log.warning(
        "%s: its channels cancel each other out, so only channel %d is read, the loudest; data.channel=N reads another",
        path,
        channel,
    )
