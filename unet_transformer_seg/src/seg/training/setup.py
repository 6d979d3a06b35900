"""Builds the pieces of a run from its config: data, model, optimizer, jitted steps, placement on devices."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from seg.classes import ClassTable
from seg.config import Config
from seg.data import SegmentationDataset, build_dataset, make_augment, make_preprocess
from seg.data.loader import TrainLoader
from seg.errors import UserError
from seg.losses import build_class_weights, build_loss
from seg.models import abstract_variables, build_model
from seg.training.frozen import FrozenParts
from seg.training.optimizer import build_optimizer, build_schedule
from seg.training.parameter_groups import check_groups, has_groups
from seg.training.state import TrainState, init_state
from seg.training.step import make_eval_step, make_train_step
from seg.training.warm_start import InitialModel, WarmStart, plan_warm_start


@dataclasses.dataclass(frozen=True)
class Setup:
    """What the loop drives.

    Attributes:
        config: the resolved config, `model.num_classes` filled in.
        classes: names and colours.
        loader: batches of the training split, by step.
        train_set: the training split.
        val_set: the validation split.
        model: the network, without parameters.
        init: `() → TrainState`, fresh weights before the first step, placed on the devices.
        warm_start: what is then taken over from another model, or None.
        train_step: `(state, batch) → (state, metrics)`; takes the state's memory over.
        eval_step: `(variables, batch) → results`.
        schedule: learning rate by step.
        replicated: placement of the state, the same on every device.
        over_devices: placement of a batch, its first axis spread over the devices.
    """

    config: Config
    classes: ClassTable
    loader: TrainLoader
    train_set: SegmentationDataset
    val_set: SegmentationDataset
    model: nn.Module
    init: Callable[[], TrainState]
    warm_start: WarmStart | None
    train_step: Callable[[TrainState, dict], tuple[TrainState, dict]]
    eval_step: Callable[[Any, dict], dict]
    schedule: optax.Schedule
    replicated: NamedSharding
    over_devices: NamedSharding

    @property
    def num_steps(self) -> int:
        """Updates in the whole run."""
        return self.config.training.num_epochs * self.loader.steps_per_epoch

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Return the batch on the devices."""
        return jax.device_put({k: batch[k] for k in ("image", "label")}, self.over_devices)


def build_setup(config: Config, initial: InitialModel | None = None) -> Setup:
    """Return the pieces of the run that `config` describes.

    Args:
        config: the settings.
        initial: the model whose weights the run begins with.

    Raises:
        UserError: data that cannot be found, classes that do not match, a batch that cannot be spread, parameters that
            are not there, an initial model of another architecture.
    """
    train_set = build_dataset(config.data, "train", config.seed)
    val_set = build_dataset(config.data, "val", config.seed)
    config = with_classes(config, train_set.classes)
    training = config.training
    replicated, over_devices = place(training.batch_size, training.accumulate)

    loader = TrainLoader(train_set, config.data, training.batch_size, config.seed)
    num_steps = training.num_epochs * loader.steps_per_epoch
    model = build_model(config.model)
    optimizer = build_optimizer(config.optimizer, num_steps)
    class_weights_k = build_class_weights(config.loss, len(train_set.classes), train_set.count_pixels)
    loss = build_loss(config.loss, class_weights_k)
    train_step = make_train_step(
        FrozenParts(model, config.optimizer.freeze) if config.optimizer.freeze else model,
        optimizer,
        loss,
        make_augment(config.data),
        seed=config.seed,
        accumulate=training.accumulate,
        ema_decay=training.ema_decay,
    )
    eval_step = make_eval_step(model, loss, make_preprocess(config.data), len(train_set.classes))

    def init() -> TrainState:
        key = jax.random.key(config.seed)
        return init_state(model, config.model, optimizer, key, with_ema=training.ema_decay > 0)

    if has_groups(config.optimizer):
        check_groups(config.optimizer, abstract_variables(config.model)["params"])
    warm_start = plan_warm_start(initial, jax.eval_shape(init), train_set.classes) if initial else None
    return Setup(
        config=config,
        classes=train_set.classes,
        loader=loader,
        train_set=train_set,
        val_set=val_set,
        model=model,
        init=jax.jit(init, out_shardings=replicated),
        warm_start=warm_start,
        train_step=jax.jit(
            train_step, donate_argnums=0, in_shardings=(replicated, over_devices), out_shardings=replicated
        ),
        eval_step=jax.jit(eval_step, in_shardings=(replicated, over_devices), out_shardings=replicated),
        schedule=build_schedule(config.optimizer, num_steps),
        replicated=replicated,
        over_devices=over_devices,
    )


def with_classes(config: Config, classes: ClassTable) -> Config:
    """Return the config with `model.num_classes` of the data set."""
    stated = config.model.num_classes
    if stated not in (0, len(classes)):
        raise UserError(
            f"model.num_classes is {stated}, but the data set has {len(classes)} classes: {', '.join(classes.names)}"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=len(classes)))


def place(batch_size: int, accumulate: int) -> tuple[NamedSharding, NamedSharding]:
    """Return the placements (replicated, first axis spread) over all local devices."""
    devices = jax.local_devices()
    if (batch_size // accumulate) % len(devices):
        raise UserError(
            f"training.batch_size / training.accumulate = {batch_size // accumulate} samples "
            f"cannot be spread evenly over {len(devices)} devices"
        )
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
