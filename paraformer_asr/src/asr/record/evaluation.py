"""The result of an evaluation on the validation split."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from asr.config import FeaturesConfig
from asr.metrics import ErrorCounts
from asr.pictures import draw_alignment

SUMMARIES = ("losses", "words", "characters", "tokens", "quantity_error")
"""Entries of metrics.json that are no columns of results.csv."""


@dataclasses.dataclass(frozen=True)
class Transcribed:
    """An utterance's reference and its transcript."""

    name: str  # of the utterance
    reference: str  # the true text, in the form that is compared
    hypothesis: str  # the decoded text, in the same form

    def __str__(self):
        return f"{self.name}\n  REF: {self.reference}\n  HYP: {self.hypothesis}\n"


@dataclasses.dataclass(frozen=True, eq=False)
class Aligned:
    """How one utterance was cut into tokens: the data of a picture."""

    mel_tm: np.ndarray  # float32[t, m], log energies before stacking
    alignment_ut: np.ndarray  # float32[u, t + 1], what each frame gave to each token; the last column is the tail's
    tokens: tuple[str, ...]  # u texts, special tokens included
    ids: tuple[int, ...] = ()  # their numbers

    def draw(self, features: FeaturesConfig, path: Path, title: str) -> None:
        """Write the picture of the alignment, a PNG file."""
        shift_s, mel_shift_s = features.output_shift_ms / 1000, features.frame_shift_ms / 1000
        draw_alignment(self.mel_tm, self.alignment_ut, self.tokens, shift_s, path, title, mel_shift_s, self.ids)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of one pass."""

    losses: dict[str, float]  # "loss", its parts, "token_accuracy"; means over the tokens, or utterances
    words: ErrorCounts  # errors in words
    characters: ErrorCounts  # errors in characters
    tokens: ErrorCounts  # errors in tokens, special ones left out
    quantity_error: float  # mean over the utterances of |N − Σ alpha|
    transcripts: list[Transcribed]  # of the first utterances
    alignments: list[tuple[Transcribed, Aligned]]  # of the first utterances
    custom: dict[str, float] = dataclasses.field(default_factory=dict)  # metrics from outside the package, by name

    @property
    def loss(self) -> float:
        """Validation loss."""
        return self.losses["loss"]

    @property
    def rates(self) -> dict[str, float]:
        """Error rates by the names that training.select_by takes."""
        return {"wer": self.words.rate, "cer": self.characters.rate, "ter": self.tokens.rate}

    def to_dict(self, numbers: dict[str, float]) -> dict:
        """Return the entry in metrics.json, null for what is not finite; `numbers` are the other columns."""
        counts = {"words": self.words, "characters": self.characters, "tokens": self.tokens}
        numbers = numbers | self.rates | {"quantity_error": self.quantity_error} | self.custom
        details = {name: _json_number(value) for name, value in numbers.items()}
        details["losses"] = {name: _json_number(value) for name, value in self.losses.items()}
        return details | {name: dataclasses.asdict(count) for name, count in counts.items()}


def _json_number(value: float) -> float | None:
    """Return `value`, or None for NaN and infinities, which JSON cannot hold."""
    return value if math.isfinite(value) else None
