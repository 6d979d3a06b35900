"""The settings of a run: a YAML file read into dataclasses, with its checks."""

from asr.config.hotword_models import SeacoConfig as SeacoConfig
from asr.config.hotword_models import TimestampsConfig as TimestampsConfig
from asr.config.schema import AugmentConfig as AugmentConfig
from asr.config.schema import Config as Config
from asr.config.schema import DataConfig as DataConfig
from asr.config.schema import DecoderConfig as DecoderConfig
from asr.config.schema import EncoderConfig as EncoderConfig
from asr.config.schema import FeaturesConfig as FeaturesConfig
from asr.config.schema import InferenceConfig as InferenceConfig
from asr.config.schema import LossConfig as LossConfig
from asr.config.schema import MeshConfig as MeshConfig
from asr.config.schema import ModelConfig as ModelConfig
from asr.config.schema import OptimizerConfig as OptimizerConfig
from asr.config.schema import PredictorConfig as PredictorConfig
from asr.config.schema import TokenizerConfig as TokenizerConfig
from asr.config.schema import TrainingConfig as TrainingConfig
from asr.config.sense_voice import SenseVoiceConfig as SenseVoiceConfig
from asr.config.streaming import ChunkLayout as ChunkLayout
from asr.config.streaming import StreamingConfig as StreamingConfig
from asr.config.toy import ToyConfig as ToyConfig
from asr.config.voice_activity import FsmnSizes as FsmnSizes
from asr.config.voice_activity import SpeechLabelsConfig as SpeechLabelsConfig
