"""The compiled programs of networks that were trained with hot words: SeACo and Contextual Paraformer.

    listen     as of `asr.inference.programs`
    remember   hot words → a vector for each, once for a list
    spell      frames, and these vectors if there are any → the tokens with confidence and times

An utterance gives the same tokens in any batch, and beside any padding of the list.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from asr.config import Config
from asr.data.frontend import Cmvn
from asr.data.text.tokenizer import Tokenizer
from asr.decode import greedy
from asr.inference.hotword_memory import HotwordMemories
from asr.inference.programs import CifPrograms, Heard, Spelling
from asr.inference.token_timing import make_find_times
from asr.models import Hotwords, build_model

BIASED_MODELS = ("seaco", "contextual")
"""Models that take hot words themselves."""


def make_biased_spell(config: Config, model: nn.Module | None = None) -> Callable[..., Spelling]:
    """Return `spell(variables, heard, num_rows, hotwords) → Spelling`; hot words are `asr.models.Hotwords` or None."""
    model = model or build_model(config.model)
    find_times = make_find_times(config, model)

    def spell(variables: Any, heard: Heard, num_rows: int, hotwords: Hotwords | None = None) -> Spelling:
        hypotheses = model.apply(variables, heard.acoustics, num_rows, hotwords, method="decode")
        ids_bu, confidence_bu = greedy(hypotheses.logits_buv, hypotheses.token_lengths_b)
        times_bu = find_times(variables, heard.acoustics, heard.duration_s_b, hypotheses, ids_bu)
        return Spelling(ids_bu, confidence_bu, *times_bu, hypotheses.token_lengths_b)

    return spell


class BiasedPrograms(CifPrograms):
    """As `CifPrograms`, but hot words go into the network instead of a search."""

    def __init__(
        self, config: Config, cmvn: Cmvn | None, variables: Any, tokenizer: Tokenizer, model: nn.Module | None = None
    ):
        super().__init__(config, cmvn, variables, tokenizer, model)
        model = model or build_model(config.model)
        self._spell = jax.jit(self.weights.reading(make_biased_spell(config, model)), static_argnums=2)
        self._automata = HotwordMemories(config, tokenizer, self.weights, model)
