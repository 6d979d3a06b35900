"""Parts of a run that come from outside the package: a model, a loss, data sets, metrics."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from seg.config import Config
from seg.data import SegmentationDataset
from seg.errors import UserError
from seg.losses import Loss
from seg.models import CustomModel

Metric = Callable[[np.ndarray], float]
"""confusion_kk int64[k, k], [true, predicted], in pixels → the metric."""


@dataclasses.dataclass(frozen=True, eq=False)
class CustomParts:
    """Parts of a run that come from outside the package; None where the config names one of its own.

    Attributes:
        model: a Flax module, called `(image_bhwc, train) → logits_bhwk`, or a function of `config.model`
            (`num_classes` set) that returns one.
        loss: `(logits_bhwk, labels_bhw) → float32[]`.
        train_set: the training split.
        val_set: the validation split.
        metrics: name → `(confusion_kk) → float`, reported beside the package's own.
    """

    model: CustomModel | None = None
    loss: Loss | None = None
    train_set: SegmentationDataset | None = None
    val_set: SegmentationDataset | None = None
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)

    def mark(self, config: Config) -> Config:
        """Return the config with `custom` where a part replaces what the config describes.

        Raises:
            UserError: one of the two data sets alone.
        """
        if (self.train_set is None) != (self.val_set is None):
            raise UserError("train_set and val_set belong together: pass both, or neither")
        if self.model is not None:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, name="custom"))
        if self.loss is not None:
            config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, name="custom"))
        if self.train_set is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, dataset="custom"))
        return config


NO_CUSTOM_PARTS = CustomParts()
"""Everything is built from the config."""
