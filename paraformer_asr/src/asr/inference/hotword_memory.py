"""Hot words as a network takes them that was trained with hot words: their tokens, and a vector for each.

The number of vectors is one of a few sizes, so that lists of many lengths share a program; padding changes no answer.
"""

import functools
import logging
import math
import re
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from asr.config import Config
from asr.data.text.tokenizer import START_ID, Tokenizer
from asr.inference.hotwords import Hotword
from asr.inference.tuning import PackedWeights
from asr.models import Hotwords
from asr.untrusted import shown

log = logging.getLogger("asr")

SMALLEST_LIST, USUAL_LIST, SIZE_STEP = 8, 50, 4
"""Sizes of a list: these two, and from the second on each this many times the one before."""

SHORTEST_PHRASE = 8  # tokens that a phrase is padded to; longer ones to powers of 2
MAX_LISTED = 100  # most words listed in a warning
LISTS_KEPT = 8
"""Lists whose vectors are kept, for the batches and requests that repeat them."""

NO_PHRASE = Hotword("")
"""A list with this phrase alone: the network compares with "no hot word", and with nothing else."""

_character_by_character = re.compile("[\u4e00-\u9fa50-9]+")


def spell_phrase(tokenizer: Tokenizer, text: str) -> list[tuple[str, int]]:
    """Return (word, token id) of each token of a phrase, by the rule that these networks were published with.

    Each word between blanks is taken in lower case. It becomes the pieces that the `seg_dict` lists for it; or, if it
    has only Chinese characters and digits, those of each character; else it is unknown as a whole. A tokenizer without
    a `seg_dict` cuts the phrase as it cuts any text.
    """
    if not tokenizer.seg_dict:
        return [(text, token_id) for token_id in tokenizer.encode(text)]
    ids = {token: number for number, token in enumerate(tokenizer.tokens)}
    row = []
    for word in text.lower().split():
        in_characters = word not in tokenizer.seg_dict and _character_by_character.fullmatch(word)
        for part in word if in_characters else [word]:
            pieces = tokenizer.seg_dict.get(part, (None,))
            row += [(part if in_characters else word, ids.get(piece, tokenizer.unknown_id)) for piece in pieces]
    return row


def list_unknown(tokenizer: Tokenizer, hotwords: Iterable[Hotword]) -> str:
    """Return a sentence that names each hot word of which a part became `<unk>`, with these parts; "" for none."""
    problems = []
    for each in hotwords:
        parts = [part for part, token_id in spell_phrase(tokenizer, each.text) if token_id == tokenizer.unknown_id]
        if parts:
            problems.append(f"{shown(each.text)} ({', '.join(map(shown, dict.fromkeys(parts)))})")
    if not problems:
        return ""
    listed = ", ".join(problems[:MAX_LISTED])
    more = f", … {len(problems)} in all" if len(problems) > MAX_LISTED else ""
    return f"hot words with parts that became <unk>, as the model has no tokens for them: {listed}{more}"


class HotwordMemories:
    """Makes the vectors of lists of hot words, and keeps those of the latest lists.

    Args:
        config: of the model; `inference.hotword_scale` goes into the result.
        tokenizer: of the model.
        weights: of the model.
        model: the network, which has a method `remember`.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, weights: PackedWeights, model: nn.Module):
        self._scale, self._tokenizer, self._weights = config.inference.hotword_scale, tokenizer, weights
        self._num_kept = config.model.seaco.num_kept if config.model.name == "seaco" else 0

        def remember(variables, phrases_wu, lengths_w):
            return model.apply(variables, phrases_wu, lengths_w, method="remember")

        self._remember = jax.jit(weights.reading(remember))
        self._kept = functools.lru_cache(LISTS_KEPT)(self._build)

    def __call__(self, hotwords: tuple[Hotword, ...]) -> Hotwords | None:
        """Return the vectors of hot words; None for an empty list, unlike for `NO_PHRASE` alone."""
        return self._kept(hotwords) if hotwords else None

    def _build(self, hotwords: tuple[Hotword, ...]) -> Hotwords:
        weighted = [([START_ID], 1.0)]  # "no hot word"
        weighted += [([i for _, i in spell_phrase(self._tokenizer, h.text)], h.weight) for h in hotwords]
        weighted = [(ids, weight) for ids, weight in weighted if ids and weight]
        size = list_size(len(weighted), self._num_kept)
        longest = max(len(ids) for ids, _ in weighted)
        phrases_wu = np.zeros((size, max(SHORTEST_PHRASE, 1 << (longest - 1).bit_length())), np.int32)
        lengths_w, log_weight_w = np.zeros(size, np.int32), np.full(size, -np.inf, np.float32)
        for row, (ids, weight) in enumerate(weighted):
            phrases_wu[row, : len(ids)], lengths_w[row], log_weight_w[row] = ids, len(ids), math.log(weight)
        vector_wd = self._remember(self._weights.arrays, phrases_wu, lengths_w)
        return Hotwords(vector_wd, jnp.asarray(log_weight_w), jnp.float32(self._scale))


def list_size(num_phrases: int, num_kept: int) -> int:
    """Return the size that a list is padded to: above `num_kept` only if there are more phrases, as more are ranked."""
    usual = num_kept or USUAL_LIST
    sizes = [min(SMALLEST_LIST, usual), usual]
    while sizes[-1] < num_phrases:
        sizes.append(sizes[-1] * SIZE_STEP)
    return next(size for size in sizes if size >= num_phrases)
