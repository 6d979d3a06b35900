"""What fails on one segment costs that segment alone, not the sound that it belongs to."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from asr.errors import NonFiniteError

FAILURES = (RuntimeError, ArithmeticError, MemoryError)
"""What a device and its programs raise, lack of memory among it. A mistake of the user is none of these."""

Answer = TypeVar("Answer")
Finish = Callable[[], list[Answer]]


def start_safely(
    start: Callable[[Sequence[np.ndarray]], Finish], waves: Sequence[np.ndarray], failed: Callable[[Exception], Answer]
) -> Finish:
    """Start a batch; return the function that waits for what is recognised in each wave.

    After a failure each wave is tried once more, alone.

    Args:
        start: starts a batch, as `Transcriber.start`.
        waves: of the batch.
        failed: returns what stands for a wave that failed again.
    """
    try:
        started = start(waves)
    except FAILURES:
        return lambda: [_alone(start, wave, failed) for wave in waves]

    def finish() -> list[Answer]:
        try:
            return [_checked(each, failed) for each in started()]
        except FAILURES:
            return [_alone(start, wave, failed) for wave in waves]

    return finish


def _alone(start: Callable, wave: np.ndarray, failed: Callable[[Exception], Answer]) -> Answer:
    try:
        return _checked(start([wave])()[0], failed)
    except FAILURES as error:
        return failed(error)


def _checked(recognition: Answer, failed: Callable[[Exception], Answer]) -> Answer:
    return recognition if recognition.finite else failed(NonFiniteError("the model's output is not finite"))
