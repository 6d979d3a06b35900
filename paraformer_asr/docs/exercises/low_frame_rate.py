"""Exercise: low frame rate, the stacking of neighbouring frames.

The filterbank gives a frame every 10 ms, far more often than letters change. `lfr_m` neighbouring frames are put side
by side, and only every `lfr_n`-th such stack is kept:

    stacked[s] = [ x[lfr_n · s − h], …, x[lfr_n · s − h + lfr_m − 1] ],    h = (lfr_m − 1) // 2

for s = 0 … ⌈t / lfr_n⌉ − 1. Where an index is below 0 the first frame stands in its place, and where it is beyond the
end the last one does.
"""

import numpy as np


def stack_frames(x_tm: np.ndarray, lfr_m: int, lfr_n: int) -> np.ndarray:
    """Return float[s, lfr_m · m], the stacks of one utterance.

    Args:
        x_tm: float[t, m], its frames; at least one.
        lfr_m: frames in a stack.
        lfr_n: frames from one stack to the next.
    """
    raise NotImplementedError
