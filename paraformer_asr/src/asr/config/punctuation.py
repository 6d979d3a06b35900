"""The settings of a punctuation model. Neither jax nor numpy is imported here."""

import dataclasses
from typing import Literal

from asr.config.schema import EncoderConfig, section, setting

NO_SIGN, UNKNOWN_SIGN = "_", "<unk>"
"""Classes that write nothing: no sign follows, and a label that training had no class for."""


@dataclasses.dataclass(frozen=True)
class PunctuationConfig:
    """The network that puts signs behind words, and how its answers are written."""

    mode: Literal["natural", "exact"] = setting(
        "natural", "natural: as a person writes; exact: FunASR's text, character for character"
    )
    vocab_size: int = setting(0, "number of words that are known", 1, 10_000_000)
    embedding_width: int = setting(256, "width of an embedding; even", 2, 4096)
    encoder: EncoderConfig = section(EncoderConfig)
    streaming: bool = setting(False, "hide later words in every layer but the last, so that text may arrive in pieces")
    signs: tuple[str, ...] = setting((UNKNOWN_SIGN, NO_SIGN, "，", "。", "？", "、"), "the sign of each class")
    full_stop: int = setting(3, "class of the sign at the end of a text", 0, 255)
