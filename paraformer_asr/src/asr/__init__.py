"""Speech recognition in JAX: Paraformer, with its continuous integrate-and-fire predictor.

    import asr

    transcriber = asr.load("runs/20260101_120000_toy")
    print(transcriber.transcribe("talk.wav").text)

docs/api.md describes the names. Each is imported when it is first used: `import asr` itself takes milliseconds.
"""

TYPE_CHECKING = False  # as in `typing`, whose import would cost more than all of this file
if TYPE_CHECKING:
    from asr.api import build_model as build_model
    from asr.api import init as init
    from asr.api import load as load
    from asr.api import load_config as load_config
    from asr.api import save as save
    from asr.api import train as train
    from asr.config import Config as Config
    from asr.config import ModelConfig as ModelConfig
    from asr.data import SpeechDataset as SpeechDataset
    from asr.data import Utterance as Utterance
    from asr.data import build_dataset as build_dataset
    from asr.data.text.tokenizer import Tokenizer as Tokenizer
    from asr.errors import NonFiniteError as NonFiniteError
    from asr.errors import UserError as UserError
    from asr.inference.hotwords import Hotword as Hotword
    from asr.inference.punctuation import Punctuator as Punctuator
    from asr.inference.transcriber import Transcriber as Transcriber
    from asr.inference.transcript import Failure as Failure
    from asr.inference.transcript import SegmentText as SegmentText
    from asr.inference.transcript import Sentence as Sentence
    from asr.inference.transcript import Transcript as Transcript
    from asr.inference.voice_activity import SpeechSegment as SpeechSegment
    from asr.inference.voice_activity import VoiceActivityDetector as VoiceActivityDetector
    from asr.inference.words import Token as Token
    from asr.inference.words import Word as Word
    from asr.losses import ctc_loss as ctc_loss
    from asr.losses import masked_cross_entropy as masked_cross_entropy
    from asr.losses import mwer_loss as mwer_loss
    from asr.losses import paraformer_loss as paraformer_loss
    from asr.losses import quantity_loss as quantity_loss
    from asr.metrics import ErrorCounts as ErrorCounts
    from asr.metrics import align as align
    from asr.metrics import bootstrap_interval as bootstrap_interval
    from asr.metrics import character_errors as character_errors
    from asr.metrics import sum_counts as sum_counts
    from asr.metrics import word_errors as word_errors
    from asr.models import Acoustics as Acoustics
    from asr.models import Hypotheses as Hypotheses
    from asr.models import Paraformer as Paraformer
    from asr.models import TrainingOutputs as TrainingOutputs
    from asr.models import count_parameters as count_parameters
    from asr.training.run import Run as Run
    from asr.watch.hook import Hook as Hook

_NAMES = {
    "asr.api": "build_model init load load_config save train",
    "asr.config": "Config ModelConfig",
    "asr.data": "SpeechDataset Utterance build_dataset",
    "asr.data.text.tokenizer": "Tokenizer",
    "asr.errors": "NonFiniteError UserError",
    "asr.inference.hotwords": "Hotword",
    "asr.inference.punctuation": "Punctuator",
    "asr.inference.transcriber": "Transcriber",
    "asr.inference.transcript": "Failure SegmentText Sentence Transcript",
    "asr.inference.voice_activity": "SpeechSegment VoiceActivityDetector",
    "asr.inference.words": "Token Word",
    "asr.losses": "ctc_loss masked_cross_entropy mwer_loss paraformer_loss quantity_loss",
    "asr.metrics": "ErrorCounts align bootstrap_interval character_errors sum_counts word_errors",
    "asr.models": "Acoustics Hypotheses Paraformer TrainingOutputs count_parameters",
    "asr.training.run": "Run",
    "asr.watch.hook": "Hook",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = tuple(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
