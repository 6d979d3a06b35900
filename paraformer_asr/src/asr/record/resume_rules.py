"""Which settings a run may change when it is resumed: every field of `asr.config` is in one of three tables.

FREE settings hold from the step of the resume on. LENGTH settings change the number of steps or the learning rate,
which the log says in numbers. REFUSED ones cannot change without making the checkpoint, or what was recorded so far,
mean something else. Where the data lie is free: whether they are the same is judged by `asr.record.run_record`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from asr.config import Config
from asr.errors import UserError
from asr.untrusted import shown


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


FREE = _keys(
    """
    model.sampling_ratio model.dtype model.remat
    model.encoder.dropout model.encoder.attention_dropout model.encoder.input_dropout model.encoder.attention
    model.predictor.dropout model.predictor.tail_threshold
    model.decoder.dropout model.decoder.attention_dropout
    data.root data.train_split data.val_split data.test_split data.tsv_file data.num_threads data.prefetch
    data.toy.num_train data.toy.num_val data.toy.num_test data.toy.num_letters data.toy.max_words
    data.toy.max_word_letters data.toy.noise
    data.augment.gain_db data.augment.noise_probability data.augment.noise_snr_db data.augment.num_mel_masks
    data.augment.max_mel_width data.augment.num_time_masks data.augment.max_time_width data.augment.max_time_share
    loss.label_smoothing loss.quantity_weight loss.ctc_weight loss.normaliser loss.ctc_normaliser
    loss.mwer_weight loss.mwer_candidates loss.mwer_mask_share
    optimizer.weight_decay optimizer.b1 optimizer.b2 optimizer.clip_norm
    training.eval_every_epochs training.log_every_steps training.early_stop training.keep_checkpoints
    training.keep_best training.num_sample_pictures training.on_non_finite training.watchdog_minutes
    training.tensorboard
    mesh.data mesh.fsdp
    inference.decoder inference.batch_size inference.max_segment_s inference.whole_up_to_s inference.min_silence_s
    inference.silence_db inference.beam_size inference.language_model inference.language_model_weight
    inference.length_bonus inference.trained_s
    """
)

LENGTH = _keys("training.num_epochs optimizer.learning_rate training.accumulate training.row_multiple")
"""The last two change the rows of a batch, and with them how many batches the data make."""

REASONS = {
    "it would be another model, and the checkpoint holds the arrays of this one": """
        model.name model.ctc_head loss.name
        model.encoder.kind model.encoder.num_layers model.encoder.width model.encoder.num_heads
        model.encoder.ffn_width model.encoder.kernel_size model.encoder.position model.encoder.causal
        model.encoder.scan
        model.predictor.kind model.predictor.left_frames model.predictor.right_frames
        model.predictor.smooth_factor model.predictor.noise_threshold model.predictor.initial_bias
        model.predictor.append_eos
        model.decoder.num_layers model.decoder.num_memory_layers model.decoder.num_ffn_layers
        model.decoder.num_heads model.decoder.ffn_width model.decoder.kernel_size
    """,
    "the weights were trained on these tokens": """
        model.vocab_size tokenizer.kind tokenizer.vocab_size tokenizer.file tokenizer.text_case
    """,
    "the weights were trained on these features of the sound": """
        model.input_dim data.dataset data.channel
        features.sample_rate_hz features.num_mels features.frame_length_ms features.frame_shift_ms features.window
        features.low_frequency_hz features.high_frequency_hz features.preemphasis features.dither features.lfr_m
        features.lfr_n features.cmvn features.cmvn_file
    """,
    "the order of the data and all random numbers come from it": "seed",
    "the batches, and with them the order of the data, were planned with it": """
        training.batch_seconds data.min_seconds data.max_seconds data.num_buckets data.augment.speeds
    """,
    "the best score so far was measured by it": "training.select_by",
    "the schedule of the learning rate was built from it": "optimizer.schedule optimizer.warmup_fraction",
    "what the optimizer and the averages remember was laid out by it": """
        optimizer.freeze optimizer.rate_factors optimizer.layer_decay training.ema_decay
    """,
    "a resumed run goes on with its own weights": "init",
    "the run directory has its name and its place; move the directory where another is wanted": "name runs_dir",
}

REFUSED = {key: reason for reason, keys in REASONS.items() for key in _keys(keys)}

LEFT_TO_THE_DATA = {
    "model.vocab_size": 0,
    "model.input_dim": 0,
    "training.row_multiple": 0,
    "training.select_by": "auto",
    "inference.trained_s": (0.0, 0.0, 0.0),
}
"""Settings with the value that leaves them to the data; the run's config holds what these decided."""

BESIDES_TRAINING = ("inference.", "model.predictor.tail_threshold", "data.root", "data.tsv_file")
BESIDES_TRAINING += ("data.train_split", "data.val_split", "data.test_split")
"""Beginnings of the settings that evaluation and transcription take from the run: of use even after the last step."""


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
