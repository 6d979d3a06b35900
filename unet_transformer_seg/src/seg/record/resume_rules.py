"""Which settings a resume may change: every field of `seg.config` has a rule in one of three tables.

FREE settings apply from the step of the resume on. LENGTH settings change the number of steps or the learning rate;
the log gives the new numbers. REFUSED settings would change the meaning of the checkpoint or of the record so far. A
rule is the name of a setting, or of a section with a dot at its end; the longest rule counts. The place of the data is
free: `seg.record.run_record` checks that the data are the same.
"""


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
    data.shown_channels data.max_pixels data.num_threads data.prefetch data.toy. data.augment.
    loss.
    optimizer.weight_decay optimizer.b1 optimizer.b2 optimizer.momentum optimizer.clip_norm
    training.accumulate training.eval_every_epochs training.log_every_steps training.early_stop
    training.keep_checkpoints training.num_sample_pictures training.on_non_finite training.watchdog_minutes
    training.tensorboard training.keep_freed
    mesh.
    inference. instances.
    """
)

LENGTH = frozenset({"training.num_epochs", "optimizer.learning_rate"})

REASONS = {
    "it would be a different model, and the checkpoint holds the arrays of this one": "model.",
    "the weights were trained to distinguish these classes": """
        model.num_classes data.class_names data.palette data.ignore_value data.value_map
        data.read_masks_by data.threshold data.masks data.object_border
    """,
    "the weights were trained on images prepared in this way": """
        data.dataset data.size data.fit data.channels data.precision data.value_range data.range
        data.percentiles data.channel_ranges data.normalise data.mean data.std data.slice_axis
    """,
    "the order of the data and all random numbers depend on it": "seed",
    "the order of the data is counted in batches of this size": "training.batch_size",
    "the learning-rate schedule was built from it": """
        optimizer.schedule optimizer.warmup_fraction optimizer.poly_power
    """,
    "the state of the optimizer and the averages depend on it": """
        optimizer.name optimizer.freeze optimizer.rate_factors optimizer.layer_decay training.ema_decay
    """,
    "a resumed run continues with its own weights": "init",
    "the run directory keeps its name and place; move the directory instead": "name runs_dir",
}

REFUSED = {key: reason for reason, keys in REASONS.items() for key in _keys(keys)}

LEFT_TO_THE_DATA = {
    **{"model.num_classes": 0, "model.labels": "exclusive", "data.value_range": (0.0, 0.0)},
    **{"data.precision": "uint8", "data.channel_ranges": (), "data.mean": (), "data.std": ()},
}
"""Settings with the value that leaves them to the data; the config of a run holds the outcome."""

BESIDES_TRAINING = ("inference.", "instances.", "data.root", "data.max_pixels", "data.train_split", "data.val_split")
BESIDES_TRAINING += ("data.test_split", "data.images_dir", "data.masks_dir", "data.image_", "data.mask_")
BESIDES_TRAINING += ("data.val_fraction", "data.test_fraction", "data.num_folds", "data.fold", "data.group_pattern")
BESIDES_TRAINING += ("data.split_seed", "data.shown_channels")
"""Prefixes of settings that evaluation and prediction read from the run: useful even after the last step."""

ALLOWED_NAMES = ("data", "classes", "config")  # parts of a run that `--allow-changed` accepts
