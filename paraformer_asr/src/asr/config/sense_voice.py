"""The settings of SenseVoice that no other model has."""

import dataclasses
from typing import Literal

from asr.config.fields import setting


@dataclasses.dataclass(frozen=True)
class SenseVoiceConfig:
    """SenseVoice: a second stack of encoder blocks, and what the model is asked for with each utterance."""

    num_late_layers: int = setting(20, "blocks behind the encoder's first norm", 0, 200)
    language: Literal["auto", "zh", "en", "yue", "ja", "ko", "nospeech"] = setting(
        "auto", "language of the sound; auto: the model finds it out"
    )
    use_itn: bool = setting(False, "write numbers in digits, and punctuation (inverse text normalisation)")
    ban_emo_unk: bool = setting(False, "never answer that the emotion is unknown")
    emo_unknown_id: int = setting(0, "token of the unknown emotion; 0: from the tokenizer", 0, 1_000_000)
