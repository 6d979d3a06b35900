"""Generates speech-like sound, to train a recogniser within minutes and without any download.

Every utterance is a pure function of (seed, split, index): a few words of random letters. A letter is a pair of tones,
one low and one high like the first two formants of a vowel, of random length; the tones of neighbours glide into each
other. The level dips at the start of a letter, which separates "aa" from a long "a"; a space is a pause. Level, pauses,
the silence at either end and the noise are random, so a model must learn from the sound how many letters there are, and
where.

Letters: n samples, c characters of the text, t frames, i input width.
"""

import dataclasses
import functools
import itertools
import math
import string
from typing import Any

import jax
import numpy as np

from asr.config import DataConfig, FeaturesConfig, TokenizerConfig
from asr.data.dataset import SpeechDataset, Utterance
from asr.data.frontend import make_frontend
from asr.data.text.building import build_tokenizer
from asr.data.text.tokenizer import Tokenizer
from asr.errors import UserError
from asr.ops.fbank import mel_scale

SPLITS = ("train", "val", "test")
LETTER_S, PAUSE_S, SILENCE_S = (0.09, 0.18), (0.12, 0.30), (0.05, 0.30)
"""Ranges of the length of a letter, of the pause between words, and of the silence at either end."""

LOW_TONES_HZ, HIGH_TONES_HZ = (250.0, 900.0), (1250.0, 3400.0)  # ranges of the two tones of a letter
MIN_RATE_HZ = 8000

GLIDE_S, DIP_S, DIP_LEVEL = 0.03, 0.05, 0.03
"""Length of a glide and of a dip in seconds, both centred between two letters, and the level of a dip's bottom."""

LEVEL_DB, HIGH_TONE_LEVEL = (-18.0, -4.0), 0.7
"""Range of the level of a low tone below full scale, and the amplitude of the high tone relative to it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Text and times of an utterance, before its sound is generated."""

    text: str  # the words
    edges: np.ndarray  # int64[c + 1], the sample where character c begins; the last entry is the end of the text
    num_samples: int  # length of the utterance, with the silence at either end
    level: float  # amplitude of the low tone


class ToySeq2Seq(SpeechDataset):
    """Utterances of one to `max_words` words over the first `num_letters` letters of the alphabet."""

    def __init__(self, config: DataConfig, features: FeaturesConfig, split: str, seed: int = 0):
        """Describe a split, "train", "val" or "test"; the three share no utterance, and none is generated yet."""
        if features.sample_rate_hz < MIN_RATE_HZ:
            raise UserError(
                f"features.sample_rate_hz {features.sample_rate_hz}: the generated speech has tones up to "
                f"{HIGH_TONES_HZ[1]:g} Hz and needs at least {MIN_RATE_HZ}"
            )
        self._toy, self._features = config.toy, features
        self._length = {"train": config.toy.num_train, "val": config.toy.num_val, "test": config.toy.num_test}[split]
        self._split, self._seed = split, seed
        self._calls = itertools.count()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Utterance:
        rng = self._rng(index)
        plan = self._plan(rng)
        wave_n = render(plan, self.tones_hz, self._features.sample_rate_hz)
        wave_n += np.float32(self._toy.noise) * rng.standard_normal(plan.num_samples, np.float32)
        return Utterance(wave_n, self._features.sample_rate_hz, plan.text, f"{self._split}_{index:05d}")

    def durations_s(self) -> np.ndarray:
        """Return float64[len], the length of each utterance in seconds; no sound is generated."""
        return np.array([plan.num_samples / self._features.sample_rate_hz for plan in self._plans])

    def texts(self) -> list[str]:
        """Return the text of each utterance."""
        return [plan.text for plan in self._plans]

    def names(self) -> list[str]:
        """Return the name of each utterance."""
        return [f"{self._split}_{index:05d}" for index in range(self._length)]

    def generated_from(self) -> dict[str, Any]:
        """Return the settings that decide the utterances."""
        toy = {name: getattr(self._toy, name) for name in ("num_letters", "max_words", "max_word_letters", "noise")}
        rate_hz = self._features.sample_rate_hz
        return {"utterances": self._length, "sample_rate_hz": rate_hz, "seed": self._seed, **toy}

    def letter_times(self, index: int) -> np.ndarray:
        """Return float64[c, 2], start and end of each character in seconds, in the middle of its glides."""
        plan = self._plan(self._rng(index))
        return np.stack([plan.edges[:-1], plan.edges[1:]], axis=1) / self._features.sample_rate_hz

    @property
    def letters(self) -> str:
        """The alphabet, without the space."""
        return string.ascii_lowercase[: self._toy.num_letters]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Characters of the alphabet and the space, with the special tokens."""
        return build_tokenizer(TokenizerConfig(kind="characters"), [" ".join(self.letters)])

    @functools.cached_property
    def tones_hz(self) -> dict[str, tuple[float, float]]:
        """The two tones of each letter: a grid of low and high ones, evenly spaced in mel."""
        num_low = math.ceil(math.sqrt(len(self.letters)))
        num_high = math.ceil(len(self.letters) / num_low)
        grid = itertools.product(spaced_tones_hz(*HIGH_TONES_HZ, num_high), spaced_tones_hz(*LOW_TONES_HZ, num_low))
        return {letter: (low, high) for letter, (high, low) in zip(self.letters, grid, strict=False)}

    def generate_sample(self, index: int | None = None) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return (features: float32[t, i], tokens: int32[u], feat_len = t, token_len = u).

        The features are stacked log mel energies without CMVN, the tokens those of `tokenizer` without the end.
        Without an index each call returns the next utterance.
        """
        index = next(self._calls) % self._length if index is None else index
        utterance = self[index]
        # Whole seconds, so that the front end is compiled for few lengths.
        seconds = math.ceil(utterance.duration_s)
        wave_1n = np.zeros((1, seconds * self._features.sample_rate_hz), np.float32)
        wave_1n[0, : len(utterance.wave)] = utterance.wave
        features_1ti, lengths_1 = self._frontend(wave_1n, np.array([len(utterance.wave)], np.int32))
        num_frames = int(lengths_1[0])
        tokens_u = np.array(self.tokenizer.encode(utterance.text), np.int32)
        return np.asarray(features_1ti[0])[:num_frames], tokens_u, num_frames, len(tokens_u)

    @functools.cached_property
    def _frontend(self):
        return jax.jit(make_frontend(self._features, None))

    @functools.cached_property
    def _plans(self) -> list[Plan]:
        return [self._plan(self._rng(index)) for index in range(self._length)]

    def _rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < self._length:
            raise IndexError(f"toy_seq2seq has {self._length} {self._split} utterances, asked for index {index}")
        return np.random.default_rng((self._seed, SPLITS.index(self._split), index))

    def _plan(self, rng: np.random.Generator) -> Plan:
        lengths = rng.integers(1, self._toy.max_word_letters + 1, rng.integers(1, self._toy.max_words + 1))
        text = " ".join("".join(rng.choice(list(self.letters), length)) for length in lengths)
        start_s, end_s = rng.uniform(*SILENCE_S, 2)
        lengths_s = [rng.uniform(*(PAUSE_S if character == " " else LETTER_S)) for character in text]
        edges_s = start_s + np.concatenate([[0.0], np.cumsum(lengths_s)])
        edges = np.round(edges_s * self._features.sample_rate_hz).astype(np.int64)
        num_samples = int(edges[-1] + round(end_s * self._features.sample_rate_hz))
        return Plan(text, edges, num_samples, float(10 ** (rng.uniform(*LEVEL_DB) / 20)))


def spaced_tones_hz(low_hz: float, high_hz: float, num_tones: int) -> list[float]:
    """Return frequencies from `low_hz` to `high_hz`, equally far apart in mel."""
    mel_k = np.linspace(mel_scale(low_hz), mel_scale(high_hz), num_tones)
    return [float(700 * np.expm1(mel / 1127)) for mel in mel_k]


def render(plan: Plan, tones_hz: dict[str, tuple[float, float]], sample_rate_hz: int) -> np.ndarray:
    """Return float32[n], the sound of a plan without noise: level · envelope · (low tone + 0.7 · high tone).

    tone[n] = sin(2π · Σ_{k ≤ n} frequency[k] / sample_rate_hz)
    """
    envelope_n = envelope(plan, sample_rate_hz)
    wave_n = np.zeros(plan.num_samples)
    for number, amplitude in ((0, 1.0), (1, HIGH_TONE_LEVEL)):
        letter_hz = [tones_hz[character][number] if character != " " else math.nan for character in plan.text]
        frequency_n = gliding(plan, letter_hz, sample_rate_hz)
        wave_n += amplitude * np.sin(2 * np.pi * np.cumsum(frequency_n) / sample_rate_hz)
    return (plan.level / (1 + HIGH_TONE_LEVEL) * envelope_n * wave_n).astype(np.float32)


def gliding(plan: Plan, letter_hz: list[float], sample_rate_hz: int) -> np.ndarray:
    """Return float64[n], a tone's frequency: each letter's own, and straight glides between neighbouring letters.

    `letter_hz` has the frequency of each character, NaN for a space, where the tone glides in silence.
    """
    half = GLIDE_S * sample_rate_hz / 2
    places, values = [], []
    for start, end, frequency_hz in zip(plan.edges[:-1], plan.edges[1:], letter_hz, strict=True):
        if not math.isnan(frequency_hz):
            places += [start + half, end - half]
            values += [frequency_hz, frequency_hz]
    return np.interp(np.arange(plan.num_samples), places, values)


def envelope(plan: Plan, sample_rate_hz: int) -> np.ndarray:
    """Return float64[n] in 0…1: 0 in pauses, 1 within letters, a dip between two neighbouring letters."""
    half = DIP_S * sample_rate_hz / 2
    places, values = [], []
    for position, character in enumerate(plan.text):
        if character == " ":
            continue
        start, end = plan.edges[position], plan.edges[position + 1]
        after_pause = position == 0 or plan.text[position - 1] == " "
        before_pause = position == len(plan.text) - 1 or plan.text[position + 1] == " "
        places += [start, start + half, end - half, end - 1e-3]
        values += [0.0 if after_pause else DIP_LEVEL, 1.0, 1.0, 0.0 if before_pause else DIP_LEVEL]
    return np.interp(np.arange(plan.num_samples), places, values, left=0.0, right=0.0)
