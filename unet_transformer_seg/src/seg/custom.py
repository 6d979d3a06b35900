"""Parts of a run that come from outside the package: a model, a loss, data sets, metrics."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seg.classes import ClassTable
from seg.config import Config
from seg.data import SegmentationDataset
from seg.data.dataset import describe, read_checked
from seg.errors import UserError
from seg.losses import Loss
from seg.models import CustomModel
from seg.untrusted import is_printable

Metric = Callable[[np.ndarray], float]
"""counts → the metric: confusion_kk int64[k, k], [true, predicted], in pixels, or int64[k, 2, 2], [class, is true,
is predicted], if classes overlap."""


@dataclasses.dataclass(frozen=True, eq=False)
class CustomParts:
    """Parts of a run that come from outside the package; None where the config names one of its own."""

    # A Flax module, called `(image_bhwc, train) → logits_bhwk`, or a function of `config.model` (`num_classes` set)
    # that returns one
    model: CustomModel | None = None
    loss: Loss | None = None  # `(logits_bhwk, labels_bhw) → float32[]`
    train_set: SegmentationDataset | None = None  # the training split
    val_set: SegmentationDataset | None = None  # the validation split
    # Name → `(confusion_kk) → float`, reported beside the package's own
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)

    def mark(self, config: Config) -> Config:
        """Return the config with `custom` where a part replaces what the config describes; data sets come in pairs."""
        if (self.train_set is None) != (self.val_set is None):
            raise UserError("train_set and val_set belong together: pass both, or neither")
        for name in ("train_set", "val_set"):
            if (dataset := getattr(self, name)) is not None:
                check_dataset(name, dataset)
        if self.train_set is not None and self.train_set.classes.names != self.val_set.classes.names:
            train, val = (", ".join(dataset.classes.names) for dataset in (self.train_set, self.val_set))
            raise UserError(f"val_set.classes: expected those of train_set, {train}; found {val}")
        if self.model is not None:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, name="custom"))
        if self.loss is not None:
            config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, name="custom"))
        if self.train_set is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, dataset="custom"))
        return config

    def resume_command(self, path: Path) -> str:
        """Return what resumes the run in `path` with the same parts, or nothing if there are none."""
        given = [f"{name}=…" for name in ("model", "loss", "train_set", "val_set", "metrics") if getattr(self, name)]
        return f"seg.train(resume={str(path)!r}, {', '.join(given)})" if given else ""


def check_dataset(name: str, dataset: SegmentationDataset) -> None:
    """Refuse a data set of another class, an empty one, and one whose first sample is malformed."""
    if not isinstance(dataset, SegmentationDataset):
        raise UserError(f"{name}: expected a subclass of seg.SegmentationDataset, found {type(dataset).__name__}")
    if not isinstance(getattr(dataset, "classes", None), ClassTable):
        raise UserError(f"{name}.classes: expected a table made by seg.make_class_table")
    if not len(dataset):
        raise UserError(f"{name}: expected at least one sample, found none")
    try:
        read_checked(dataset, 0)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def check_model(model: nn.Module, config: Config) -> None:
    """Refuse a network from outside the package whose logits do not fit the images or the classes."""
    size, k = config.data.size, config.model.num_classes
    image_bhwc = jax.ShapeDtypeStruct((1, *size, config.data.channels), jnp.float32)

    def predict(image_bhwc: jax.Array) -> jax.Array:
        return model.apply(model.init(jax.random.key(0), image_bhwc, train=False), image_bhwc, train=False)

    logits_bhwk = trace("model", predict, image_bhwc)
    if getattr(logits_bhwk, "shape", None) != (1, *size, k) or logits_bhwk.dtype != jnp.float32:
        raise UserError(
            f"model: expected logits float32{[1, *size, k]} of one image {list(size)} with {k} classes, found "
            f"{describe(logits_bhwk)}"
        )


def check_loss(loss: Loss, config: Config) -> None:
    """Refuse a loss from outside the package that is no function of logits and labels to a scalar."""
    if not callable(loss):
        raise UserError(f"loss: expected a function (logits_bhwk, labels_bhw) → float32[], found {type(loss).__name__}")
    shape = config.training.batch_size // config.training.accumulate, *config.data.size
    logits_bhwk = jax.ShapeDtypeStruct((*shape, config.model.num_classes), jnp.float32)
    labels_shape = logits_bhwk.shape if config.model.labels == "overlapping" else shape
    value = trace("loss", loss, logits_bhwk, jax.ShapeDtypeStruct(labels_shape, jnp.int32))
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise UserError(f"loss: expected a scalar float32[], found {describe(value)}")


def check_metrics(metrics: Mapping[str, Metric], reserved: Collection[str], *example: Any) -> None:
    """Refuse metrics that are no mapping of names to functions, have a reserved name, or give no number.

    Each is tried with `example`, the arguments of a perfect prediction.
    """
    if not isinstance(metrics, Mapping):
        raise UserError(f"metrics: expected a mapping of names to functions, found {type(metrics).__name__}")
    for name, metric in metrics.items():
        if not is_printable(name):
            raise UserError(f"metrics: expected names of printable characters, found {name!r:.80}")
        if name in reserved:
            raise UserError(f"metrics: {name!r} is a name in the record already; choose another")
        if not callable(metric):
            raise UserError(f"metrics[{name!r}]: expected a function, found {type(metric).__name__}")
        try:
            value = metric(*example)
            array = np.asarray(value)
        except Exception as error:
            raised = f"{type(error).__name__}: {error!s:.200}"
            raise UserError(f"metrics[{name!r}]: failed on a perfect prediction ({raised})") from error
        if array.ndim or array.dtype.kind not in "biuf":
            raise UserError(f"metrics[{name!r}]: expected a number, found {value!r:.80}")


def trace(name: str, function: Callable, *arguments: Any) -> Any:
    """Return the shapes and dtypes of what a part from outside the package returns; nothing is compiled."""
    try:
        return jax.eval_shape(function, *arguments)
    except UserError:
        raise
    except Exception as error:
        raised = f"{type(error).__name__}: {error!s:.400}"
        raise UserError(f"{name}: failed on arrays of the run's shapes ({raised})") from error


NO_CUSTOM_PARTS = CustomParts()  # everything is built from the config
