"""The settings of a run: a YAML file read into dataclasses, with its checks."""

from seg.config.model_schema import ModelConfig as ModelConfig
from seg.config.model_schema import PlainConvUNetConfig as PlainConvUNetConfig
from seg.config.model_schema import ResNetUNetConfig as ResNetUNetConfig
from seg.config.model_schema import SegFormerDecoderConfig as SegFormerDecoderConfig
from seg.config.model_schema import TransformerConfig as TransformerConfig
from seg.config.model_schema import TransUNetConfig as TransUNetConfig
from seg.config.model_schema import UNetDecoderConfig as UNetDecoderConfig
from seg.config.schema import AugmentConfig as AugmentConfig
from seg.config.schema import Config as Config
from seg.config.schema import DataConfig as DataConfig
from seg.config.schema import InferenceConfig as InferenceConfig
from seg.config.schema import InstancesConfig as InstancesConfig
from seg.config.schema import LossConfig as LossConfig
from seg.config.schema import MeshConfig as MeshConfig
from seg.config.schema import OptimizerConfig as OptimizerConfig
from seg.config.schema import ToyConfig as ToyConfig
from seg.config.schema import TrainingConfig as TrainingConfig
