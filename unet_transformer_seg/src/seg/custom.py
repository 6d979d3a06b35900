"""Parts of a run that come from outside the package: a model, a loss, data sets, metrics."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seg.classes import IGNORE_LABEL
from seg.config import Config
from seg.data import SegmentationDataset
from seg.errors import UserError
from seg.losses import Loss
from seg.models import CustomModel, abstract_variables

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
            UserError: one of the two data sets alone, or one whose first sample is malformed.
        """
        if (self.train_set is None) != (self.val_set is None):
            raise UserError("train_set and val_set belong together: pass both, or neither")
        for name in ("train_set", "val_set"):
            if (dataset := getattr(self, name)) is not None:
                check_dataset(name, dataset)
        if self.model is not None:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, name="custom"))
        if self.loss is not None:
            config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, name="custom"))
        if self.train_set is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, dataset="custom"))
        return config


def check_dataset(name: str, dataset: SegmentationDataset) -> None:
    """Refuse a data set of another class, an empty one, and one whose first sample is malformed.

    Raises:
        UserError: with what was expected.
    """
    if not isinstance(dataset, SegmentationDataset):
        raise UserError(f"{name}: expected a subclass of seg.SegmentationDataset, found {type(dataset).__name__}")
    if not len(dataset):
        raise UserError(f"{name}: expected at least one sample, found none")
    image_hwc, mask_hw = np.asarray(dataset[0].image), np.asarray(dataset[0].mask)
    if (image_hwc.dtype, mask_hw.dtype) != (np.uint8, np.uint8) or image_hwc.shape != (*mask_hw.shape, 3):
        raise UserError(
            f"{name}[0]: expected an image uint8[h, w, 3] and a mask uint8[h, w], found {image_hwc.dtype}"
            f"{list(image_hwc.shape)} and {mask_hw.dtype}{list(mask_hw.shape)}"
        )
    labels, k = np.unique(mask_hw), len(dataset.classes)
    if (beyond := labels[(labels >= k) & (labels != IGNORE_LABEL)]).size:
        raise UserError(f"{name}[0]: expected labels 0…{k - 1}, or {IGNORE_LABEL} to ignore, found {beyond[0]}")


def check_logits(model: nn.Module, config: Config) -> None:
    """Refuse a network from outside the package whose logits do not fit the images or the classes.

    Raises:
        UserError: with the shapes.
    """
    size, k = config.data.size, config.model.num_classes
    image_bhwc = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = abstract_variables(config.model, model, size)
    logits_bhwk = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image_bhwc)
    if logits_bhwk.shape != (1, *size, k) or logits_bhwk.dtype != jnp.float32:
        raise UserError(
            f"model: expected logits float32{[1, *size, k]} of one image {list(size)} with {k} classes, found "
            f"{logits_bhwk.dtype}{list(logits_bhwk.shape)}"
        )


NO_CUSTOM_PARTS = CustomParts()
"""Everything is built from the config."""
