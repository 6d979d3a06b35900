"""Error rates of words and characters, from counts of substitutions, deletions and insertions, with their intervals.

Counts are added up over utterances and divided once, so a long utterance weighs more than a short one and the order
of evaluation cannot change a result.

Texts are compared as they are, with their case, punctuation and accents, in units of

    words        separated by white space
    characters   all code points, with one blank between two words: a missed word boundary is an error, as in jiwer
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


def characters(text: str) -> list[str]:
    """Return the characters of a text, the words being one blank apart."""
    return list(" ".join(words(text)))


@dataclasses.dataclass(frozen=True)
class ErrorCounts:
    """How many units of the truth were missed, and how.

    Attributes:
        substitutions: units recognised as another one.
        deletions: units that were left out.
        insertions: units that were added.
        reference_length: units of the truth.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_length: int = 0

    @property
    def errors(self) -> int:
        """The sum of the three kinds."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def hits(self) -> int:
        """Units of the truth that were recognised."""
        return self.reference_length - self.substitutions - self.deletions

    @property
    def rate(self) -> float:
        """Errors / reference_length; above 1 where much was added, and NaN where the truth is empty."""
        return self.errors / self.reference_length if self.reference_length else math.nan

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        """Return the counts of both together."""
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )


def sum_counts(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Return the counts of all utterances together."""
    return sum(counts, ErrorCounts())


@dataclasses.dataclass(frozen=True)
class Alignment:
    """A hypothesis beside the truth, with the fewest errors possible.

    Attributes:
        pairs: (unit of the truth, unit of the hypothesis) in order. They are equal where it is right; None on the left
            is an insertion, None on the right a deletion.
    """

    pairs: tuple[tuple[Hashable | None, Hashable | None], ...]

    @property
    def counts(self) -> ErrorCounts:
        """Number of errors of each kind."""
        kinds = Counter(
            "insertion" if truth is None else "deletion" if unit is None else "hit" if truth == unit else "substitution"
            for truth, unit in self.pairs
        )
        length = len(self.pairs) - kinds["insertion"]
        return ErrorCounts(kinds["substitution"], kinds["deletion"], kinds["insertion"], length)


def align(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> Alignment:
    """Return an alignment with the fewest errors, each error counting 1.

    Of several such alignments it is the one of rapidfuzz and jiwer, so all three kinds of error agree with jiwer's, not
    only their sum.

    The units of the truth are words, characters or tokens; none of them is None.

    Reference: Levenshtein 1966; rapidfuzz `Levenshtein.opcodes`.
    """
    numbers: dict[Hashable, int] = {}  # numbers are compared exactly, other things by their hash alone
    truth_ids, heard_ids = (
        [numbers.setdefault(unit, len(numbers)) for unit in units] for units in (reference, hypothesis)
    )
    pairs: list[tuple[Hashable | None, Hashable | None]] = []
    for code in Levenshtein.opcodes(truth_ids, heard_ids):
        truth: Sequence = reference[code.src_start : code.src_end]
        heard: Sequence = hypothesis[code.dest_start : code.dest_end]
        if code.tag == "insert":
            truth = [None] * len(heard)
        elif code.tag == "delete":
            heard = [None] * len(truth)
        pairs += zip(truth, heard, strict=True)
    return Alignment(tuple(pairs))


def count_errors(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> ErrorCounts:
    """Return the error counts of one utterance; arguments as in `align`."""
    return align(reference, hypothesis).counts


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Return the error counts of the words of one utterance, for the word error rate (WER)."""
    return count_errors(words(reference), words(hypothesis))


def character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Return the error counts of the characters of one utterance, for the character error rate (CER)."""
    return count_errors(characters(reference), characters(hypothesis))


def bootstrap_interval(
    counts: Sequence[ErrorCounts], level: float = 0.95, num_samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap confidence interval of the error rate.

    Test sets are drawn from the utterances, with replacement and of the same number; the interval leaves out
    (1 − level)/2 of their rates at either end. Whole utterances are drawn, as the errors within one are correlated. So
    are the errors of one speaker, which the result ignores: the true interval is wider.

    `counts` has an entry for each utterance; the same `seed` gives the same interval.

    Returns:
        (low, high) as fractions; NaN where there is no utterance with text. A drawn set without any text is left out.

    Raises:
        ValueError: a level that is not between 0 and 1.

    Reference: Bisani and Ney 2004, "Bootstrap Estimates for Confidence Intervals in ASR Performance Evaluation".
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, found {level}")
    errors_n = np.array([c.errors for c in counts], np.int64)
    lengths_n = np.array([c.reference_length for c in counts], np.int64)
    if not lengths_n.any():
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(num_samples):  # one draw at a time: the memory does not grow with their number
        drawn_n = rng.integers(len(counts), size=len(counts))
        length = lengths_n[drawn_n].sum()
        if length:
            rates.append(errors_n[drawn_n].sum() / length)
    if not rates:
        return math.nan, math.nan
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
