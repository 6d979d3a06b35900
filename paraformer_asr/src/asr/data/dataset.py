"""The interface of a data set: random access to named utterances, whose texts and lengths need no decoding."""

import abc
import dataclasses
from typing import Any

import numpy as np

from asr.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Utterance:
    """A piece of sound with what is said in it.

    Attributes:
        wave: float32[n], one channel, full scale is −1…1.
        sample_rate_hz: samples in one second of `wave`.
        text: what is said, as the data set writes it; the tokenizer normalises it.
        name: what a message or a picture calls the utterance.
    """

    wave: np.ndarray
    sample_rate_hz: int
    text: str
    name: str

    @property
    def duration_s(self) -> float:
        """Length of the sound in seconds."""
        return len(self.wave) / self.sample_rate_hz


class SpeechDataset(abc.ABC):
    """Utterances by index; `dataset[i]` is the same in every call, in any order, from any thread."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of utterances."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Utterance:
        """Return utterance `index`, its sound decoded and at the data set's sample rate.

        Raises:
            IndexError: index outside 0 … len-1.
            UserError: a file that cannot be read, naming it.
        """

    @abc.abstractmethod
    def durations_s(self) -> np.ndarray:
        """Return float64[len], the length of each utterance in seconds; no sound is decoded."""

    @abc.abstractmethod
    def texts(self) -> list[str]:
        """Return what is said in each utterance."""

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Return the name of each utterance."""

    def sound_files(self) -> list[str]:
        """Return the path of the sound file of each utterance; nothing where they do not come from files."""
        return []

    def starts_s(self) -> np.ndarray:
        """Return float64[len], where each utterance begins in its sound file, in seconds."""
        return np.zeros(len(self))

    def generated_from(self) -> dict[str, Any]:
        """Return the settings that decide what generated utterances are, in JSON values; of files, nothing."""
        return {}

    def where(self, index: int) -> str:
        """Return where utterance `index` comes from, for a message: its name, or the line of a manifest."""
        return self.names()[index]


def read_checked(dataset: SpeechDataset, index: int, sample_rate_hz: int) -> Utterance:
    """Return `dataset[index]`; refuse what is not as `Utterance` promises, by the class and the index."""
    utterance, place = dataset[index], f"{type(dataset).__name__}[{index}]"
    if not isinstance(utterance, Utterance):
        raise UserError(f"{place}: expected an asr.Utterance, found {type(utterance).__name__}")
    for name, text in (("name", utterance.name), ("text", utterance.text)):
        if not isinstance(text, str):
            raise UserError(f"{place}: expected its {name} as str, found {type(text).__name__}")
    wave_n = utterance.wave
    if not isinstance(wave_n, np.ndarray) or wave_n.dtype != np.float32 or wave_n.ndim != 1:
        raise UserError(f"{place}: expected a wave float32[n], found {describe(wave_n)}")
    if utterance.sample_rate_hz != sample_rate_hz:
        expected = f"sound of {sample_rate_hz} Hz, as features.sample_rate_hz"
        raise UserError(f"{place}: expected {expected}, found {utterance.sample_rate_hz!r:.20}")
    return utterance


def describe(value: Any) -> str:
    """Return dtype and shape of an array, or the name of another type."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__
