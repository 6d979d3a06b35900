"""Which settings a run may change when it is resumed: every field of `seg.config` is in one of three tables.

FREE settings hold from the step of the resume on. LENGTH settings change the number of steps or the learning rate,
which the log says in numbers. REFUSED ones cannot change without making the checkpoint, or what was recorded so far,
mean something else. Where the data lie is free: whether they are the same is judged by `seg.record.run_record`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from seg.config import Config
from seg.errors import UserError
from seg.untrusted import shown


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


FREE = _keys(
    """
    model.dropout model.dtype model.remat
    model.transformer.dropout model.transformer.stochastic_depth model.transformer.attention
    model.transunet.dropout model.transunet.attention
    data.root data.train_split data.val_split data.test_split data.images_dir data.masks_dir
    data.image_prefix data.image_suffix data.mask_prefix data.mask_suffix
    data.val_fraction data.test_fraction data.num_folds data.fold data.group_pattern data.split_seed
    data.max_pixels data.num_threads data.prefetch
    data.toy.num_train data.toy.num_val data.toy.num_test data.toy.max_shapes data.toy.noise
    data.augment.crop data.augment.scale data.augment.aspect data.augment.flip data.augment.rotate_degrees
    data.augment.brightness data.augment.contrast data.augment.saturation data.augment.hue data.augment.blur
    data.augment.noise data.augment.copy_paste
    loss.name loss.dice_weight loss.dice_per_image loss.label_smoothing loss.class_weighting loss.class_weights
    loss.class_weight_power loss.focal_gamma loss.tversky_alpha loss.tversky_beta
    optimizer.weight_decay optimizer.b1 optimizer.b2 optimizer.momentum optimizer.clip_norm
    training.accumulate training.eval_every_epochs training.log_every_steps training.early_stop
    training.keep_checkpoints training.num_sample_pictures training.on_non_finite training.watchdog_minutes
    training.tensorboard
    mesh.data mesh.fsdp
    inference.scale inference.tile inference.whole_up_to inference.overlap inference.batch_size inference.mirror
    """
)

LENGTH = frozenset({"training.num_epochs", "optimizer.learning_rate"})

REASONS = {
    "it would be another model, and the checkpoint holds the arrays of this one": """
        model.name model.base_width model.depth model.stem_stride model.conv_bias model.norm model.norm_groups
        model.upsample model.deep_supervision
        model.transformer.num_layers model.transformer.num_heads model.transformer.mlp_ratio
        model.transformer.position model.transformer.position_grid
        model.transunet.resnet_width model.transunet.resnet_units model.transunet.hidden_width
        model.transunet.num_layers model.transunet.num_heads model.transunet.mlp_width
        model.transunet.position_grid model.transunet.bridge_width model.transunet.decoder_widths
        model.transunet.num_skips
        model.resnet_unet.block model.resnet_unet.units model.resnet_unet.encoder_width
        model.resnet_unet.decoder_widths model.resnet_unet.interpolation
    """,
    "the weights were trained to tell these classes apart": """
        model.num_classes data.class_names data.palette data.ignore_value data.value_map
        data.read_masks_by data.threshold
    """,
    "the weights were trained on images that are brought to the model in this way": """
        data.dataset data.size data.fit data.value_range data.mean data.std
    """,
    "the order of the data and all random numbers come from it": "seed",
    "the order of the data is counted in batches of this size": "training.batch_size",
    "the schedule of the learning rate was built from it": """
        optimizer.schedule optimizer.warmup_fraction optimizer.poly_power
    """,
    "what the optimizer and the averages remember was laid out by it": """
        optimizer.name optimizer.freeze optimizer.rate_factors optimizer.layer_decay training.ema_decay
    """,
    "a resumed run goes on with its own weights": "init",
    "the run directory has its name and its place; move the directory where another is wanted": "name runs_dir",
}

REFUSED = {key: reason for reason, keys in REASONS.items() for key in _keys(keys)}

LEFT_TO_THE_DATA = {"model.num_classes": 0, "data.value_range": (0.0, 0.0)}
"""Settings with the value that leaves them to the data; the run's config holds what these decided."""

BESIDES_TRAINING = (
    "inference.",
    "data.root",
    "data.max_pixels",
    "data.train_split",
    "data.val_split",
    "data.test_split",
)
BESIDES_TRAINING += ("data.images_dir", "data.masks_dir", "data.image_", "data.mask_", "data.val_fraction")
BESIDES_TRAINING += ("data.test_fraction", "data.num_folds", "data.fold", "data.group_pattern", "data.split_seed")
"""Beginnings of the settings that evaluation and prediction take from the run: of use when nothing is left to train."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that is not what the run had.

    Attributes:
        key: with dots between sections.
        before: value in the run.
        after: value now.
    """

    key: str
    before: Any
    after: Any

    def __str__(self):
        return f"{self.key} {_in_words(self.before)} → {_in_words(self.after)}"


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return key → value of all settings, such as `training.num_epochs` → 20."""
    values = {}
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), f"{prefix}{field.name}"
        values |= flatten(value, f"{key}.") if dataclasses.is_dataclass(value) else {key: value}
    return values


def list_changes(before: Config, after: Config) -> list[Change]:
    """Return the settings that differ; one that is left to the data is not another."""
    old, new = flatten(before), flatten(after)
    return [
        Change(key, old[key], value) for key, value in new.items() if value != old[key] and not _is_left(key, value)
    ]


def keep_decided(before: Config, after: Config) -> Config:
    """Return `after` with what the data decided in the run, where it leaves that to the data."""
    for key in LEFT_TO_THE_DATA:
        if _is_left(key, flatten(after)[key]):
            after = _replaced(after, key.split("."), flatten(before)[key])
    return after


def check_changes(changes: list[Change], run_path: Path) -> None:
    """Refuse the changes that no run can make.

    Raises:
        UserError: naming each with its reason.
    """
    lines = [f"  {change}: {reason}" for change in changes if (reason := reason_against(change.key))]
    if lines:
        raise UserError(
            f"{run_path}: settings that cannot change in a run that has begun:\n" + "\n".join(lines) + "\nLeave them "
            f"out to resume, or begin a new run with them: --config FILE, with --init {run_path} to start from the "
            "weights of this one"
        )


def reason_against(key: str) -> str:
    """Return why a setting cannot change, or an empty text."""
    if key in FREE or key in LENGTH:
        return ""
    return REFUSED.get(key, "no rule says that it can")


def _is_left(key: str, value: Any) -> bool:
    return key in LEFT_TO_THE_DATA and value == LEFT_TO_THE_DATA[key]


def _replaced(settings: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(settings, **{name: _replaced(getattr(settings, name), rest, value) if rest else value})


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) and value else shown(list(value) if isinstance(value, tuple) else value)
