"""How many of the hot words in the references were recognised, and how the other words fared."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from asr.metrics.error_rate import Alignment, ErrorCounts


@dataclasses.dataclass(frozen=True)
class HotwordCounts:
    """Occurrences of hot words, a phrase of several words counting once, and the errors in all other words.

    Attributes:
        in_reference: in the truth.
        in_hypothesis: in what was recognised.
        hits: in both, at the same place and complete.
        others: words of the truth outside of hot words, and words added outside of hot words.
    """

    in_reference: int = 0
    in_hypothesis: int = 0
    hits: int = 0
    others: ErrorCounts = ErrorCounts()

    @property
    def recall(self) -> float:
        """Hits / in_reference; NaN where the truth has no hot word."""
        return self.hits / self.in_reference if self.in_reference else math.nan

    @property
    def precision(self) -> float:
        """Hits / in_hypothesis; NaN where no hot word was recognised."""
        return self.hits / self.in_hypothesis if self.in_hypothesis else math.nan

    def __add__(self, other: "HotwordCounts") -> "HotwordCounts":
        """Return the counts of both together."""
        return HotwordCounts(
            self.in_reference + other.in_reference,
            self.in_hypothesis + other.in_hypothesis,
            self.hits + other.hits,
            self.others + other.others,
        )

    def to_plain(self) -> dict[str, float | None]:
        """Return the counts and rates as values of JSON."""
        counts = {"in_reference": self.in_reference, "in_hypothesis": self.in_hypothesis, "hits": self.hits}
        rates = {"recall": self.recall, "precision": self.precision, "error_rate_of_others": self.others.rate}
        return counts | {name: None if math.isnan(rate) else round(rate, 6) for name, rate in rates.items()}

    def __str__(self):
        return (
            f"hot words: recall {self.recall:.1%} ({self.hits} of {self.in_reference}), "
            f"precision {self.precision:.1%} ({self.hits} of {self.in_hypothesis}), "
            f"error rate of the rest {self.others.rate:.2%}"
        )


def sum_hotword_counts(counts: Iterable[HotwordCounts]) -> HotwordCounts:
    """Return the counts of all utterances together."""
    return sum(counts, HotwordCounts())


def count_hotwords(alignment: Alignment, phrases: Collection[tuple[str, ...]]) -> HotwordCounts:
    """Return the counts of one utterance.

    Args:
        alignment: of words.
        phrases: the hot words, each a tuple of words in the form of the alignment.
    """
    pairs = alignment.pairs
    reference = [place for place, (truth, _) in enumerate(pairs) if truth is not None]
    hypothesis = [place for place, (_, unit) in enumerate(pairs) if unit is not None]
    in_reference = set(_occurrences([pairs[place][0] for place in reference], reference, phrases))
    in_hypothesis = set(_occurrences([pairs[place][1] for place in hypothesis], hypothesis, phrases))
    hot_truth, hot_units = ({place for places in each for place in places} for each in (in_reference, in_hypothesis))
    others = [
        (truth, unit)
        for place, (truth, unit) in enumerate(pairs)
        if place not in (hot_units if truth is None else hot_truth)
    ]
    counts = Alignment(tuple(others)).counts
    return HotwordCounts(len(in_reference), len(in_hypothesis), len(in_reference & in_hypothesis), counts)


def _occurrences(
    words: Sequence[object], places: Sequence[int], phrases: Collection[tuple[str, ...]]
) -> Iterator[tuple[int, ...]]:
    """Yield the places of the words of each occurrence of a phrase."""
    lengths, known = {len(phrase) for phrase in phrases}, set(phrases)
    for length in lengths - {0}:
        for start in range(len(words) - length + 1):
            if tuple(words[start : start + length]) in known:
                yield tuple(places[start : start + length])
