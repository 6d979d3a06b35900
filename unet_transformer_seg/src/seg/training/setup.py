"""Builds the pieces of a run from its config: data, model, optimizer, jitted steps, placement on devices."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from seg.classes import ClassTable
from seg.config import Config
from seg.config.rules import check_config
from seg.custom import NO_CUSTOM_PARTS, CustomParts, check_loss, check_metrics, check_model
from seg.data import SegmentationDataset, build_dataset
from seg.data.fit import is_fitted
from seg.data.loader import Share, TrainLoader
from seg.data.settlement import settle_images
from seg.data.transforms import make_augment, make_preprocess
from seg.errors import UserError
from seg.labels import Labels, build_labels
from seg.losses import build_class_weights
from seg.metrics import compute_metrics
from seg.models import abstract_variables, build_model, smallest_image
from seg.record.report import COLUMNS
from seg.training.optimizer import build_optimizer, build_schedule
from seg.training.parameter_groups import FrozenParts, check_groups, has_groups
from seg.training.sharding import GatheredParameters, Placement, build_placement
from seg.training.state import TrainState, init_state
from seg.training.step import Loss, make_eval_step, make_train_step
from seg.training.warm_start import InitialModel, WarmStart, plan_warm_start

ON_DEVICE = ("image", "label")  # the parts of a batch that the steps take


@dataclasses.dataclass(frozen=True)
class Setup:
    """The pieces of a run."""

    config: Config  # the resolved config, `model.num_classes` filled in
    classes: ClassTable  # names and colours
    labels: Labels  # what a pixel may be, with the thresholds that are tried if classes overlap
    loader: TrainLoader  # batches of the training split, by step
    train_set: SegmentationDataset  # the training split
    val_set: SegmentationDataset  # the validation split
    model: nn.Module  # the network, without parameters
    init: Callable[[], TrainState]  # `() → TrainState`, fresh weights before the first step, placed on the devices
    warm_start: WarmStart | None  # the arrays that are then copied from another model, or None
    loss: Loss  # `(logits_bhwk, labels_bhw) → float32[]`
    # `(state, batch, healthy, stop_d) → (state, metrics, healthy)`; donates the state's memory
    train_step: Callable[..., tuple[TrainState, dict, jax.Array]]
    eval_step: Callable[..., dict]  # `(variables, batch, stop_d) → results`
    schedule: optax.Schedule  # learning rate by step
    placement: Placement  # of state and batches on the devices
    abstract_state: TrainState  # the state's shapes, each with its placement
    flags: dict[bool, jax.Array]  # the `stop_d` of the steps, by whether this process wants to stop
    custom: CustomParts = NO_CUSTOM_PARTS  # the parts from outside the package

    @property
    def num_steps(self) -> int:
        """Updates in the whole run."""
        return self.steps_in(self.config.training.num_epochs)

    def steps_in(self, num_epochs: int) -> int:
        """Return the updates in a number of passes over the training data."""
        return num_epochs * self.loader.steps_per_epoch

    def epochs_after(self, step: int) -> float:
        """Return the passes over the training data in a number of updates."""
        return step / self.loader.steps_per_epoch

    def evaluates_after(self, step: int) -> bool:
        """Return whether the state is evaluated after a number of updates."""
        return step % self.steps_in(self.config.training.eval_every_epochs) == 0 or step == self.num_steps

    @property
    def share(self) -> Share:
        """Which rows of a batch this process reads."""
        return jax.process_index(), jax.process_count()

    @property
    def rows(self) -> int:
        """Rows of a batch that this process reads."""
        return self.config.training.batch_size // jax.process_count()

    def put_batch(self, batch: dict[str, np.ndarray], names: Sequence[str] = ON_DEVICE) -> dict[str, jax.Array]:
        """Return these parts of the batch on the devices, made of the shares of all processes."""
        return self.placement.put_batch({name: batch[name] for name in names})


def build_setup(
    config: Config,
    initial: InitialModel | None = None,
    custom: CustomParts = NO_CUSTOM_PARTS,
    *,
    is_settled: bool = False,
) -> Setup:
    """Return the pieces of the run that `config` describes, or refuse parts that do not fit each other.

    `initial` is the model whose weights the run begins with; parts in `custom` take the place of those that the config
    names. `is_settled` if the config is that of a run, which holds what the images decided when it started.
    """
    if not is_settled:
        config = dataclasses.replace(config, data=settle_images(config.data, custom.train_set))
    train_set, val_set = custom.train_set, custom.val_set
    if train_set is None:
        train_set, val_set = (
            build_dataset(config.data, split, config.seed, config.model.labels) for split in ("train", "val")
        )
    config = with_classes(config, train_set.classes)
    labels = build_labels(config, len(train_set.classes), choose=True)
    in_record = compute_metrics(labels.perfect_counts).to_dict(train_set.classes.names)
    check_metrics(custom.metrics, {*COLUMNS, *in_record}, labels.perfect_counts)
    training = config.training
    placement = build_placement(config.mesh)
    check_batch_size(training.batch_size, training.accumulate, placement.num_devices)
    # Images that are predicted whole take one program per size.
    if jax.process_count() > 1 and config.inference.whole_up_to and not is_fitted(config):
        raise UserError(
            "inference.whole_up_to cannot be used in a run of several processes, as they validate with one program; "
            "set inference.whole_up_to=0 for the run; seg.eval and seg.infer may use another value"
        )
    share = jax.process_index(), jax.process_count()
    loader = TrainLoader(train_set, config.data, training.batch_size, config.seed, share)
    num_steps = training.num_epochs * loader.steps_per_epoch
    model = build_model(config.model, custom.model)
    if custom.model is not None:
        check_model(model, config)
    optimizer = build_optimizer(config.optimizer, num_steps)
    loss = custom.loss
    if loss is None:
        weights_k = build_class_weights(config.loss, len(train_set.classes), train_set.count_pixels)
        loss = labels.build_loss(config.loss, weights_k)
    else:
        check_loss(loss, config)
    if has_groups(config.optimizer):
        check_groups(
            config.optimizer,
            abstract_variables(config.model, model, initial_image(config), config.data.channels)["params"],
        )
    steps = jit_steps(config, model, optimizer, loss, labels, placement)
    shapes = steps["abstract_state"]
    return Setup(
        config=config,
        classes=train_set.classes,
        labels=labels,
        loader=loader,
        train_set=train_set,
        val_set=val_set,
        model=model,
        loss=loss,
        warm_start=plan_warm_start(initial, shapes, train_set.classes, config.data) if initial else None,
        schedule=build_schedule(config.optimizer, num_steps),
        placement=placement,
        flags={stop: placement.put_flag(stop) for stop in (False, True)},
        custom=custom,
        **steps,
    )


def initial_image(config: Config) -> tuple[int, int]:
    """Return rows and columns of the image that the parameters are initialised with."""
    return config.data.size if config.model.name == "custom" else smallest_image(config.model)


def jit_steps(
    config: Config,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    labels: Labels,
    placement: Placement,
) -> dict[str, Any]:
    """Return `init`, `train_step` and `eval_step`, jitted and placed, and `abstract_state`."""
    training = config.training
    applied = GatheredParameters(model, placement) if placement.is_spread else model
    train_step = make_train_step(
        FrozenParts(applied, config.optimizer.freeze) if config.optimizer.freeze else applied,
        optimizer,
        loss,
        make_augment(config.data),
        seed=config.seed,
        accumulate=training.accumulate,
        ema_decay=training.ema_decay,
        on_non_finite=training.on_non_finite,
    )
    views = {"mirror": config.inference.mirror, "scales": config.inference.scales}
    eval_step = make_eval_step(applied, loss, make_preprocess(config.data), labels, **views)

    def init() -> TrainState:
        key = jax.random.key(config.seed)
        image, with_ema = initial_image(config), training.ema_decay > 0
        return init_state(model, image, optimizer, key, with_ema, config.data.channels)

    shapes = jax.eval_shape(init)
    of_state, batch, everywhere = placement.of_state(shapes), placement.over_devices, placement.replicated
    return {
        "init": jax.jit(init, out_shardings=of_state),
        "train_step": jax.jit(
            train_step,
            donate_argnums=0,
            in_shardings=(of_state, batch, everywhere, batch),
            out_shardings=(of_state, everywhere, everywhere),
        ),
        "eval_step": jax.jit(
            eval_step,
            in_shardings=(of_state.variables, batch, batch),
            out_shardings={name: everywhere for name in ("loss", "counts", "busy", "stop")}
            | {name: batch for name in ("decided", "probabilities_bhwk")},
        ),
        "abstract_state": jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, of_state
        ),
    }


def with_classes(config: Config, classes: ClassTable) -> Config:
    """Return the config with `model.num_classes` and `model.labels` of the data set."""
    stated, overlapping = config.model.num_classes, classes.overlapping
    # A single class is a yes or no at each pixel, whatever the config states.
    if overlapping != (config.model.labels == "overlapping") and len(classes) > 1:
        kind = "overlapping" if overlapping else "exclusive"
        raise UserError(f"model.labels: the data set has {kind} classes; set model.labels={kind}")
    if stated not in (0, len(classes)):
        raise UserError(
            f"model.num_classes is {stated}, but the data set has {len(classes)} classes: {', '.join(classes.names)}"
        )
    labels = "overlapping" if overlapping else "exclusive"
    model = dataclasses.replace(config.model, num_classes=len(classes), labels=labels)
    settled = dataclasses.replace(config, model=model)
    if labels != config.model.labels:
        check_config(settled)
    return settled


def check_batch_size(batch_size: int, accumulate: int, num_devices: int) -> None:
    """Refuse a batch that does not give every device the same number of samples."""
    if (batch_size // accumulate) % num_devices:
        raise UserError(
            f"training.batch_size / training.accumulate = {batch_size // accumulate} samples "
            f"cannot be spread evenly over {num_devices} devices"
        )
