"""The settings of a run: a YAML file read into dataclasses, with its checks."""

from seg.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    InferenceConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    ResNetUNetConfig,
    ToyConfig,
    TrainingConfig,
    TransformerConfig,
    TransUNetConfig,
)

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ResNetUNetConfig",
    "ToyConfig",
    "TrainingConfig",
    "TransUNetConfig",
    "TransformerConfig",
]
