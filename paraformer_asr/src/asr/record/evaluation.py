"""What one pass over the validation split measured."""

import dataclasses

import numpy as np

from asr.metrics import ErrorCounts


@dataclasses.dataclass(frozen=True)
class Transcribed:
    """What was said and what was understood.

    Attributes:
        name: of the utterance.
        reference: the true text, in the form that is compared.
        hypothesis: the decoded text, in the same form.
    """

    name: str
    reference: str
    hypothesis: str


@dataclasses.dataclass(frozen=True)
class Aligned:
    """What a picture of one utterance's alignment is drawn from.

    Attributes:
        transcribed: name and texts.
        mel_tm: float32[t, m], log energies.
        alignment_ut: float32[u, t + 1], the overlap matrix, tail included.
        tokens: u decoded tokens.
        ids: their numbers.
    """

    transcribed: Transcribed
    mel_tm: np.ndarray
    alignment_ut: np.ndarray
    tokens: tuple[str, ...]
    ids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one pass found.

    Attributes:
        losses: "loss" and its parts, and "token_accuracy" of the training path; means over the tokens, or utterances.
        words: errors in words.
        characters: errors in characters.
        tokens: errors in tokens, special ones left out.
        quantity_error: mean over the utterances of |N − Σ alpha|.
        transcripts: of the first utterances.
        alignments: of the first utterances.
    """

    losses: dict[str, float]
    words: ErrorCounts
    characters: ErrorCounts
    tokens: ErrorCounts
    quantity_error: float
    transcripts: list[Transcribed]
    alignments: list[Aligned]

    @property
    def loss(self) -> float:
        """Validation loss."""
        return self.losses["loss"]

    @property
    def rates(self) -> dict[str, float]:
        """Error rates by the names that training.select_by takes."""
        return {"wer": self.words.rate, "cer": self.characters.rate, "ter": self.tokens.rate}
