"""Which settings a resume may change: every field of `asr.config` has a rule in one of three tables.

FREE settings apply from the step of the resume on. LENGTH settings change the number of steps or the learning rate;
the log gives the new numbers. REFUSED settings would change the meaning of the checkpoint or of the record so far. A
rule is the name of a setting, or of a section with a dot at its end; the longest rule counts. The place of the data is
free: `asr.record.run_record` checks that the data are the same.
"""


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


FREE = _keys(
    """
    model.sampling_ratio model.dtype model.remat model.streaming.training_chunks model.streaming.offline_share
    model.encoder.dropout model.encoder.attention_dropout model.encoder.input_dropout model.encoder.attention
    model.predictor.dropout model.predictor.tail_threshold
    model.decoder.dropout model.decoder.attention_dropout
    data.root data.train_split data.val_split data.test_split data.tsv_file data.num_threads data.prefetch
    data.toy. data.speech_labels. data.augment.
    loss.
    optimizer.weight_decay optimizer.b1 optimizer.b2 optimizer.clip_norm
    training.eval_every_epochs training.log_every_steps training.early_stop training.keep_checkpoints
    training.keep_best training.num_sample_pictures training.on_non_finite training.watchdog_minutes
    training.tensorboard training.keep_freed
    mesh.
    inference.
    """
)

LENGTH = _keys("training.num_epochs optimizer.learning_rate training.accumulate training.row_multiple")
"""The last two change the rows of a batch, and so the number of batches."""

REASONS = {
    "it would be a different model, and the checkpoint holds the arrays of this one": "model. loss.name",
    "the weights were trained on these tokens": "model.vocab_size tokenizer.",
    "the weights were trained on these features of the sound": "model.input_dim data.dataset data.channel features.",
    "the order of the data and all random numbers depend on it": "seed",
    "the batches, and so the order of the data, were planned with it": """
        training.batch_seconds data.min_seconds data.max_seconds data.num_buckets data.augment.speeds
    """,
    "the best score so far was measured by it": "training.select_by",
    "the learning-rate schedule was built from it": "optimizer.schedule optimizer.warmup_fraction",
    "the state of the optimizer and the averages depend on it": """
        optimizer.freeze optimizer.rate_factors optimizer.layer_decay training.ema_decay
    """,
    "a resumed run continues with its own weights": "init",
    "the run directory keeps its name and place; move the directory instead": "name runs_dir",
}

REFUSED = {key: reason for reason, keys in REASONS.items() for key in _keys(keys)}

LEFT_TO_THE_DATA = {
    "model.vocab_size": 0,
    "model.input_dim": 0,
    "training.row_multiple": 0,
    "training.select_by": "auto",
    "inference.trained_s": (0.0, 0.0, 0.0),
}
"""Settings with the value that leaves them to the data; the config of a run holds the outcome."""

BESIDES_TRAINING = ("inference.", "model.predictor.tail_threshold", "data.root", "data.tsv_file")
BESIDES_TRAINING += ("data.train_split", "data.val_split", "data.test_split", "data.speech_labels.")
"""Prefixes of settings that evaluation and transcription read from the run: useful even after the last step."""

ALLOWED_NAMES = ("data", "tokenizer", "normalisation", "config")
"""Parts of a run that `--allow-changed` accepts."""
