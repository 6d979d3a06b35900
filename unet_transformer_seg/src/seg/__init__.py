"""Image segmentation in JAX: a U-Net, and a U-Net whose bottleneck is a transformer.

    import seg

    model = seg.load("runs/20260101_120000_toy_unet_transformer")
    model.predict("photo.jpg").save("labels.png")

docs/api.md describes the names. Each is imported when it is first used: `import seg` itself takes milliseconds.
"""

TYPE_CHECKING = False  # as in `typing`, whose import would cost more than all of this file
if TYPE_CHECKING:
    from seg.api import build_model as build_model
    from seg.api import init as init
    from seg.api import load as load
    from seg.api import load_config as load_config
    from seg.api import save as save
    from seg.api import train as train
    from seg.classes import ClassTable as ClassTable
    from seg.classes import make_class_table as make_class_table
    from seg.config import AugmentConfig as AugmentConfig
    from seg.config import Config as Config
    from seg.config import DataConfig as DataConfig
    from seg.config import InferenceConfig as InferenceConfig
    from seg.config import LossConfig as LossConfig
    from seg.config import ModelConfig as ModelConfig
    from seg.config import OptimizerConfig as OptimizerConfig
    from seg.config import TrainingConfig as TrainingConfig
    from seg.data import Sample as Sample
    from seg.data import SegmentationDataset as SegmentationDataset
    from seg.data import build_dataset as build_dataset
    from seg.errors import NonFiniteError as NonFiniteError
    from seg.errors import UserError as UserError
    from seg.inference.predictor import Predictor as Predictor
    from seg.inference.segmentation import Segmentation as Segmentation
    from seg.losses import bce_dice_loss as bce_dice_loss
    from seg.losses import bce_loss as bce_loss
    from seg.losses import build_loss as build_loss
    from seg.losses import ce_dice_loss as ce_dice_loss
    from seg.losses import cross_entropy_loss as cross_entropy_loss
    from seg.losses import dice_loss as dice_loss
    from seg.losses import focal_loss as focal_loss
    from seg.losses import tversky_loss as tversky_loss
    from seg.metrics import SegMetrics as SegMetrics
    from seg.metrics import compute_metrics as compute_metrics
    from seg.metrics import confusion_matrix as confusion_matrix
    from seg.models import count_parameters as count_parameters
    from seg.training.run import Run as Run
    from seg.watch.hook import Hook as Hook

_NAMES = {
    "seg.api": "build_model init load load_config save train",
    "seg.classes": "ClassTable make_class_table",
    "seg.config": (
        "AugmentConfig Config DataConfig InferenceConfig LossConfig ModelConfig OptimizerConfig TrainingConfig"
    ),
    "seg.data": "Sample SegmentationDataset build_dataset",
    "seg.errors": "NonFiniteError UserError",
    "seg.inference.predictor": "Predictor",
    "seg.inference.segmentation": "Segmentation",
    "seg.losses": "bce_dice_loss bce_loss build_loss ce_dice_loss cross_entropy_loss dice_loss focal_loss tversky_loss",
    "seg.metrics": "SegMetrics compute_metrics confusion_matrix",
    "seg.models": "count_parameters",
    "seg.training.run": "Run",
    "seg.watch.hook": "Hook",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = tuple(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'seg' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
