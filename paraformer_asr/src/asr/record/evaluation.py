"""The result of an evaluation on the validation split."""

import dataclasses
import math

import numpy as np

from asr.metrics import ErrorCounts

SUMMARIES = ("losses", "words", "characters", "tokens", "quantity_error")
"""Entries of metrics.json that are no columns of results.csv."""


@dataclasses.dataclass(frozen=True)
class Transcribed:
    """An utterance's reference and its transcript.

    Attributes:
        name: of the utterance.
        reference: the true text, in the form that is compared.
        hypothesis: the decoded text, in the same form.
    """

    name: str
    reference: str
    hypothesis: str

    def __str__(self):
        return f"{self.name}\n  REF: {self.reference}\n  HYP: {self.hypothesis}\n"


@dataclasses.dataclass(frozen=True, eq=False)
class Aligned:
    """How one utterance was cut into tokens: the data of a picture.

    Attributes:
        mel_tm: float32[t, m], log energies before stacking.
        alignment_ut: float32[u, t + 1], what each frame gave to each token; the last column is the tail's.
        tokens: u texts, special tokens included.
        ids: their numbers.
    """

    mel_tm: np.ndarray
    alignment_ut: np.ndarray
    tokens: tuple[str, ...]
    ids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of one pass.

    Attributes:
        losses: "loss" and its parts, and "token_accuracy" of the training path; means over the tokens, or utterances.
        words: errors in words.
        characters: errors in characters.
        tokens: errors in tokens, special ones left out.
        quantity_error: mean over the utterances of |N − Σ alpha|.
        transcripts: of the first utterances.
        alignments: of the first utterances.
        custom: metrics from outside the package, by name.
    """

    losses: dict[str, float]
    words: ErrorCounts
    characters: ErrorCounts
    tokens: ErrorCounts
    quantity_error: float
    transcripts: list[Transcribed]
    alignments: list[tuple[Transcribed, Aligned]]
    custom: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Validation loss."""
        return self.losses["loss"]

    @property
    def rates(self) -> dict[str, float]:
        """Error rates by the names that training.select_by takes."""
        return {"wer": self.words.rate, "cer": self.characters.rate, "ter": self.tokens.rate}

    def to_dict(self, numbers: dict[str, float]) -> dict:
        """Return the entry in metrics.json, with NaN and infinities as null.

        Args:
            numbers: the columns of results.csv that are not scores.
        """
        counts = {"words": self.words, "characters": self.characters, "tokens": self.tokens}
        numbers = numbers | self.rates | {"quantity_error": self.quantity_error} | self.custom
        details = {name: _json_number(value) for name, value in numbers.items()}
        details["losses"] = {name: _json_number(value) for name, value in self.losses.items()}
        return details | {name: dataclasses.asdict(count) for name, count in counts.items()}


def _json_number(value: float) -> float | None:
    """Return `value`, or None for NaN and infinities, which JSON cannot hold."""
    return value if math.isfinite(value) else None
