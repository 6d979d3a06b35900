"""Reads every utterance of a split and reports what it holds, and each line that cannot be used."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from asr.config import Config, DataConfig
from asr.data.bucketing import BatchPlan
from asr.data.dataset import SpeechDataset
from asr.data.loader import TOLERANCE_S, find_crowded, plan_training, select_lengths
from asr.data.manifest_dataset import ManifestDataset, read_manifest
from asr.data.speech_labels import label_speech
from asr.data.text.building import choose_tokenizer
from asr.data.text.comparison import suit_characters
from asr.data.text.odd_characters import find_odd_characters, find_unwritable
from asr.data.text.tokenizer import Tokenizer
from asr.data.toy_seq2seq import ToySeq2Seq
from asr.errors import UserError

SHORTER_SHARE = 0.02  # share of its stated length that a sound may lack without a warning, at least TOLERANCE_S


@dataclasses.dataclass
class SplitReport:
    """What a split holds; the lists of the usable utterances are parallel."""

    problems: list[str]  # a message for each line that cannot be used
    warnings: list[str] = dataclasses.field(default_factory=list)  # a message for each line that is suspicious
    wheres: list[str] = dataclasses.field(default_factory=list)  # file and line of each utterance, or its name
    names: list[str] = dataclasses.field(default_factory=list)  # of the utterances
    texts: list[str] = dataclasses.field(default_factory=list)  # as the manifest has them
    durations_s: list[float] = dataclasses.field(default_factory=list)  # lengths of the decoded sounds
    same_sound: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # hash of the samples → names with them


def inspect_split(
    config: Config, split: Literal["train", "val", "test"], progress: Callable[..., Iterable]
) -> SplitReport:
    """Return what a split holds, after decoding all its utterances; `progress` wraps the iterator, as `tqdm` does."""
    dataset, stated_s, problems = _open(config, split)
    dataset = label_speech(dataset, config, split) if config.model.name == "vad" else dataset
    report = SplitReport(problems)
    names = dataset.names()

    def hash_sound(index: int) -> tuple[float, str, bool, str] | UserError:
        """Return (seconds, hash of the samples, whether it is silent, text); nothing else of the sound is kept."""
        try:
            utterance = dataset[index]
        except UserError as error:
            return error
        wave_n = utterance.wave
        return utterance.duration_s, hashlib.sha256(wave_n.tobytes()).hexdigest(), not wave_n.any(), utterance.text

    with ThreadPoolExecutor(max(1, config.data.num_threads)) as pool:
        sounds = pool.map(hash_sound, range(len(dataset)))
        for index, sound in enumerate(progress(sounds, total=len(dataset), desc=split)):
            if isinstance(sound, UserError):
                report.problems.append(str(sound))
                continue
            (seconds, digest, silent, text), where = sound, dataset.where(index)
            lacking_s = stated_s[index] - seconds  # NaN where no length is stated
            differs = f"{where}: stated to be {stated_s[index]:.2f} s long, but the sound has {seconds:.2f} s"
            if lacking_s < -TOLERANCE_S:
                report.problems.append(differs)
                continue
            report.wheres.append(where)
            report.names.append(names[index])
            report.texts.append(text)
            report.durations_s.append(seconds)
            report.same_sound.setdefault(digest, []).append(names[index])
            if silent:
                report.warnings.append(f"{where}: the sound is silent")
            if lacking_s > max(TOLERANCE_S, SHORTER_SHARE * stated_s[index]):
                report.warnings.append(differs)
    return report


def _open(config: Config, split: str) -> tuple[SpeechDataset, np.ndarray, list[str]]:
    """Return (utterances of a split, float64[len] stated lengths or NaN, problems); nothing is decoded yet."""
    if config.data.dataset == "toy_seq2seq":
        dataset = ToySeq2Seq(config.data, config.features, split, config.seed)
        return dataset, np.full(len(dataset), np.nan), []
    reading = read_manifest(config.data, split)
    stated_s, rate_hz = np.array(reading.entries.stated_s), config.features.sample_rate_hz
    # The lengths only bound what is decoded; those that no manifest states are not looked up.
    dataset = ManifestDataset(reading.entries, np.nan_to_num(stated_s), rate_hz, config.data.channel)
    return dataset, stated_s, reading.problems


@dataclasses.dataclass(frozen=True)
class TokenReport:
    """Tokens of the texts, and the batches of a training."""

    tokenizer: Tokenizer  # built from the usable training texts
    lengths: dict[str, np.ndarray]  # split → int[u], tokens of each usable utterance, without the end of sentence
    plan: BatchPlan  # of the training


def inspect_tokens(config: Config, reports: dict[str, SplitReport]) -> TokenReport:
    """Tokenize all texts and plan the batches; add the problems and warnings to the reports.

    Unknown characters are a problem in training, where they would teach `<unk>`, and a warning elsewhere.
    """
    train = reports["train"]
    if not train.texts:
        raise UserError(f"no training utterance can be used{count_reasons(train.problems)}")
    tokenizer = choose_tokenizer(config, train.texts)
    for split, report in reports.items():
        unknown = find_unknown(report, tokenizer)
        (report.problems if split == "train" else report.warnings).extend(unknown)
    texts = {split: list(zip(report.wheres, report.texts, strict=True)) for split, report in reports.items()}
    for split, messages in find_odd_characters(texts, tokenizer).items():
        reports[split].warnings += messages + (find_unwritable(texts[split], tokenizer) if split == "train" else [])
    warn_of_long_words(config, reports["val"], tokenizer)
    lengths = {
        split: np.array([len(tokenizer.encode(text)) for text in report.texts], np.int64)
        for split, report in reports.items()
    }
    durations_u = np.array(train.durations_s)
    with_end_u = lengths["train"] + config.model.predictor.append_eos
    for index in find_crowded(durations_u, with_end_u, config.features):
        train.warnings.append(f"{train.wheres[index]}: {with_end_u[index]} tokens, more than the sound has frames")
    train.warnings += find_left_out(train, config.data)
    kept = select_lengths(durations_u, config.data)
    return TokenReport(tokenizer, lengths, plan_training(durations_u[kept], with_end_u[kept], config))


def count_reasons(problems: list[str]) -> str:
    """Return the end of a sentence: the number of lines refused for each reason, most frequent first."""
    reasons = Counter(_reason(problem) for problem in problems)
    counts = ", ".join(f"{n} × {reason}" for reason, n in reasons.most_common())
    return f": {counts}" if counts else ""


def _reason(problem: str) -> str:
    without_where = re.sub(r"^.*?:\d+: ", "", problem)
    without_path = re.sub(r"^(?:[^:\s]*/)[^:]*: ", "", without_where)
    return re.sub(r"\d+(?:\.\d+)?", "N", re.sub(r"'[^']*'|\"[^\"]*\"|(?:[^\s:]*/)[^\s:,]+", "…", without_path))


def warn_of_long_words(config: Config, report: SplitReport, tokenizer: Tokenizer) -> None:
    """Warn if whole sentences count as words, so that word errors cannot choose the best checkpoint."""
    if config.model.name != "vad" and suit_characters(tokenizer, report.texts):
        select_by = config.training.select_by
        chosen = {
            "auto": "training.select_by: auto chooses the best checkpoint by characters",
            "wer": "training.select_by: wer hardly distinguishes checkpoints, use training.select_by=cer",
        }
        report.warnings.append(
            "the model writes no spaces between words, so a whole sentence is one word; "
            + chosen.get(select_by, f"training.select_by: {select_by} suits such texts")
        )


def find_unknown(report: SplitReport, tokenizer: Tokenizer) -> list[str]:
    """Return a message for each text with characters that the tokenizer does not cover."""
    unknown = ((where, tokenizer.unknown_characters(t)) for where, t in zip(report.wheres, report.texts, strict=True))
    return [f"{where}: no token for {', '.join(map(repr, sorted(parts)))}" for where, parts in unknown if parts]


def find_left_out(report: SplitReport, config: DataConfig) -> list[str]:
    """Return a message for each utterance that training leaves out because of its length."""
    messages = []
    for where, seconds in zip(report.wheres, report.durations_s, strict=True):
        left_out = f"{where}: left out, {seconds:.2f} s are"
        if seconds < config.min_seconds:
            messages.append(f"{left_out} less than data.min_seconds = {config.min_seconds:g}")
        elif seconds > config.max_seconds:
            messages.append(f"{left_out} more than data.max_seconds = {config.max_seconds:g}")
    return messages


def find_duplicates(reports: dict[str, SplitReport]) -> list[str]:
    """Return what occurs more than once: equal sounds within or across splits, and names across splits."""
    messages = []
    for split, report in reports.items():
        if twice := [names for names in report.same_sound.values() if len(names) > 1]:
            messages.append(f"{split}: {len(twice)} sounds occur more than once, such as {' = '.join(twice[0])}")
    splits = list(reports)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            first, second = reports[one].same_sound, reports[other].same_sound
            if shared := [digest for digest in second if digest in first]:
                example = f"{first[shared[0]][0]} = {second[shared[0]][0]}"
                messages.append(f"{len(shared)} sounds of {other} are in {one} too, such as {example}")
            if names := set(reports[one].names) & set(reports[other].names):
                messages.append(f"{len(names)} names of {other} are in {one} too, such as {min(names)}")
    return messages
