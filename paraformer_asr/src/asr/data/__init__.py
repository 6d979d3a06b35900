"""Data sets, the tokenizer, the plan and the loader of batches, and the front end on the device."""

from typing import Literal

from asr.config import Config
from asr.data.dataset import SpeechDataset, Utterance
from asr.data.manifest_dataset import open_manifest_dataset
from asr.errors import UserError

__all__ = ["SpeechDataset", "Utterance", "build_dataset"]


def build_dataset(
    config: Config, split: Literal["train", "val", "test"], custom: SpeechDataset | None = None
) -> SpeechDataset:
    """Return one split of the data set that `config` names, with frame labels for texts if the model is a detector.

    `custom` is the data set from outside the package, if the config names one.

    Raises:
        UserError: folders or manifests that are missing, or lines that cannot be used, the first of them listed.
    """
    dataset = _open_dataset(config, split) if custom is None else custom
    if config.model.name != "vad":
        return dataset
    from asr.data.speech_labels import label_speech  # imports jax, which reading sound files does without

    return label_speech(dataset, config, split)


def _open_dataset(config: Config, split: Literal["train", "val", "test"]) -> SpeechDataset:
    match config.data.dataset:
        case "toy_seq2seq":
            from asr.data.toy_seq2seq import ToySeq2Seq  # imports jax, too

            return ToySeq2Seq(config.data, config.features, split, config.seed)
        case "jsonl" | "kaldi" | "tsv":
            return open_manifest_dataset(config.data, split, config.features.sample_rate_hz)
        case "custom":
            raise UserError(
                "data.dataset: custom: the data set comes from outside the package, so it works from Python only; pass "
                "it: asr.train(config, train_set=..., val_set=...); or name files: data.dataset=jsonl data.root=FOLDER"
            )
