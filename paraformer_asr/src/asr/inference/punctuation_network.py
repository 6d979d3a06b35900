"""The network of a punctuation model, compiled for a few lengths, and its vocabulary.

Letters: t words, c classes of signs.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from asr.config.punctuation import UNKNOWN_SIGN, PunctuationConfig
from asr.inference.punctuation_windows import Part
from asr.inference.typesetting import QUOTES, is_only_signs, split_own_sign, split_parts
from asr.models.ct_transformer import CTTransformer

LENGTHS = (32, 96, 256)
"""Lengths of windows that programs are compiled for; longer windows, in mode exact only, take the next power of two."""


@functools.lru_cache(maxsize=8)
def _compiled(config: PunctuationConfig) -> Callable[..., jax.Array]:
    """Return the network as a compiled function; models of one shape share its programs."""
    return jax.jit(CTTransformer(config).apply)


class PunctuationNetwork:
    """Scores the signs behind the words of a window.

    Attributes:
        config: of the model.
        words: that it knows, in the order of their numbers.
        variables: {"params": …}.
    """

    def __init__(self, config: PunctuationConfig, words: Sequence[str], variables: Any):
        self.config, self.words, self.variables = config, tuple(words), jax.device_put(variables)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        self._unknown = self._numbers[UNKNOWN_SIGN]
        self._score = _compiled(dataclasses.replace(config, mode="natural"))

    def warm_up(self) -> None:
        """Compile for all lengths of windows."""
        for length in LENGTHS:
            self.score([0] * length, 0)

    def score(self, numbers: Sequence[int], num_old: int = 0) -> np.ndarray:
        """Return float32[t, c], the scores of the signs behind each word.

        Args:
            numbers: of the words of a window, t of them.
            num_old: the first words that were there before the rest arrived; see `CTTransformer`.
        """
        size = next((length for length in LENGTHS if length >= len(numbers)), 1 << (len(numbers) - 1).bit_length())
        words_bt = np.zeros((1, size), np.int32)
        words_bt[0, : len(numbers)] = numbers
        lengths_b, num_old_b = (np.array([number], np.int32) for number in (len(numbers), num_old))
        return np.asarray(self._score(self.variables, words_bt, lengths_b, num_old_b))[0, : len(numbers)]

    def parts(self, word: str, place: int) -> list[Part]:
        """Return the parts of the word at a place of the text; none for a word of signs alone."""
        own = ""
        if self.config.mode == "natural":
            word, own = ("", word) if is_only_signs(word) else split_own_sign(word)
            word = word.strip(QUOTES)
        texts = split_parts(word)
        parts = [Part(text, self._number(text), place, is_last=False) for text in texts]
        return [*parts[:-1], parts[-1]._replace(is_last=True, own=own or None)] if parts else []

    def _number(self, text: str) -> int:
        return self._numbers.get(text, self._unknown)
