"""What was recognised in one segment: its tokens.

Letters: u tokens.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from asr.inference.programs import Spelling


@dataclasses.dataclass(frozen=True, eq=False)
class Recognition:
    """The tokens of one segment."""

    ids: np.ndarray  # int32[u], special tokens included
    confidence: np.ndarray  # float32[u], the model's probability of each
    start_s: np.ndarray  # float32[u], when each begins, from the start of the segment
    end_s: np.ndarray  # float32[u], when it ends
    finite: bool = True  # what the model computed; if not, the tokens mean nothing
    failure: Exception | None = None  # why there is no token: the segment failed, with others and alone


COLUMNS = ("ids", "confidence", "start_s", "end_s")
NOTHING = Recognition(np.zeros(0, np.int32), *(np.zeros(0, np.float32) for _ in range(3)))
"""The recognition of silence, or of sound shorter than one frame."""


def join(recognitions: Sequence[Recognition]) -> Recognition:
    """Return the tokens of several stretches of one segment, one after the other."""
    parts = [NOTHING, *recognitions]
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS)
    return Recognition(*columns, finite=all(part.finite for part in parts))


def recognition_of(spelling: Spelling, row: int) -> Recognition:
    """Return the tokens of one row of a batch, on the host."""
    columns = spelling.ids_bu, spelling.confidence_bu, spelling.start_s_bu, spelling.end_s_bu
    ids, confidence, *times_s = (values[row, : spelling.lengths_b[row]] for values in columns)
    finite = spelling.finite_b is None or bool(spelling.finite_b[row])
    return Recognition(ids, confidence, *times_s, finite and bool(np.isfinite(confidence).all()))
