"""Chooses the programs that recognise with a model: those of its decoder."""

from typing import Any

import flax.linen as nn

from asr.config import Config
from asr.data.frontend import Cmvn
from asr.data.text.tokenizer import Tokenizer
from asr.inference.ctc_programs import BeamPrograms, BestPathPrograms
from asr.inference.hotword_programs import BIASED_MODELS, BiasedPrograms
from asr.inference.programs import CifPrograms


def make_programs(config: Config, tokenizer: Tokenizer, cmvn: Cmvn | None, variables: Any, model: nn.Module) -> Any:
    """Return the programs of `inference.decoder`."""
    match config.inference.decoder:
        case "cif" if config.model.name in BIASED_MODELS:
            return BiasedPrograms(config, cmvn, variables, tokenizer, model)
        case "cif":
            return CifPrograms(config, cmvn, variables, tokenizer, model)
        case "ctc":
            return BestPathPrograms(config, cmvn, variables, tokenizer, model)
        case "ctc_beam":
            return BeamPrograms(config, cmvn, variables, tokenizer, model)
