"""The settings of a run: a YAML file read into dataclasses, with its checks."""

from asr.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    FeaturesConfig,
    InferenceConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PredictorConfig,
    TokenizerConfig,
    ToyConfig,
    TrainingConfig,
)

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "FeaturesConfig",
    "InferenceConfig",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PredictorConfig",
    "TokenizerConfig",
    "ToyConfig",
    "TrainingConfig",
]
