"""The settings of published models that find times with a head of their own, or take hot words."""

import dataclasses

from asr.config.fields import setting


@dataclasses.dataclass(frozen=True)
class TimestampsConfig:
    """The second head of the predictor, which finds the times of the tokens; models seaco and bicif."""

    smooth_factor: float = setting(0.25, "factor on the weights", 0.01, 10)
    noise_threshold: float = setting(0.01, "subtracted from the weights, which are then clipped at 0", 0, 0.9)


@dataclasses.dataclass(frozen=True)
class SeacoConfig:
    """The branch that compares tokens with hot words; model seaco."""

    no_bias_id: int = setting(8377, "token by which the branch says that no hot word fits", 0, 1_000_000)
    num_kept: int = setting(50, "hot words kept for an utterance, those that fit best; 0: all", 0, 10_000)
    num_heads: int = setting(4, "attention heads; must divide the encoder's width", 1, 64)
    ffn_width: int = setting(1024, "width of the feed-forward network", 4, 16384)
    kernel_size: int = setting(21, "kernel size of the memory, in tokens; odd", 1, 127)
    dropout: float = setting(0.1, "dropout rate after each sublayer", 0, 0.9)
    attention_dropout: float = setting(0.0, "dropout rate on attention weights", 0, 0.9)
