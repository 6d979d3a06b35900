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
from asr.data.text.building import choose_tokenizer
from asr.data.text.comparison import suit_characters
from asr.data.text.odd_characters import find_odd_characters, find_unwritable
from asr.data.text.tokenizer import Tokenizer
from asr.data.toy_seq2seq import ToySeq2Seq
from asr.errors import UserError

SHORTER_SHARE = 0.02
"""A sound that lacks more of its stated length than this, and than TOLERANCE_S, is suspicious."""


@dataclasses.dataclass
class SplitReport:
    """What a split holds. Lists of utterances are parallel, of those that can be used.

    Attributes:
        problems: a message for each line that cannot be used.
        warnings: a message for each line that can, and yet is suspicious.
        wheres: file and line, or name.
        names: of the utterances.
        texts: as they stand in the manifest.
        durations_s: lengths of the decoded sounds.
        same_sound: hash of the decoded samples → utterances that have them.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    wheres: list[str] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)
    durations_s: list[float] = dataclasses.field(default_factory=list)
    same_sound: dict[str, list[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Finding:
    """What one utterance holds, or why it cannot be used."""

    problem: str = ""
    duration_s: float = 0.0
    digest: str = ""
    silent: bool = False


def inspect_split(
    config: Config, split: Literal["train", "val", "test"], progress: Callable[..., Iterable]
) -> SplitReport:
    """Decode all utterances of a split with `data.num_threads` threads.

    Args:
        config: the sections `data` and `features`, and the seed of generated data.
        split: which one.
        progress: wraps the iterator, as `tqdm` does; called with `total` and `desc`.

    Raises:
        UserError: the manifest does not exist, or is none at all.
    """
    dataset, stated_s, problems = _open(config, split)
    report = SplitReport(problems=problems)
    texts, names = dataset.texts(), dataset.names()
    with ThreadPoolExecutor(max(1, config.data.num_threads)) as pool:
        findings = pool.map(lambda i: _inspect(dataset, i, stated_s[i]), range(len(dataset)))
        for index, finding in enumerate(progress(findings, total=len(dataset), desc=split)):
            if finding.problem:
                report.problems.append(finding.problem)
                continue
            where = dataset.where(index)
            report.wheres.append(where)
            report.names.append(names[index])
            report.texts.append(texts[index])
            report.durations_s.append(finding.duration_s)
            report.same_sound.setdefault(finding.digest, []).append(names[index])
            report.warnings += _suspicions(where, finding, stated_s[index])
    return report


def _open(config: Config, split: str) -> tuple[SpeechDataset, list[float | None], list[str]]:
    """Return the utterances of a split, of which nothing is decoded yet, their stated lengths, and bad lines."""
    if config.data.dataset == "toy_seq2seq":
        dataset = ToySeq2Seq(config.data, config.features, split, config.seed)
        return dataset, [None] * len(dataset), []
    reading = read_manifest(config.data, split)
    stated_s = [None if np.isnan(seconds) else float(seconds) for seconds in reading.entries.stated_s()]
    durations_s = np.nan_to_num(reading.entries.stated_s())  # bounds what is decoded, no more
    rate_hz, channel = config.features.sample_rate_hz, config.data.channel
    dataset = ManifestDataset(reading.entries, durations_s, rate_hz, channel)
    return dataset, stated_s, reading.problems


def _inspect(dataset: SpeechDataset, index: int, stated_s: float | None) -> _Finding:
    try:
        utterance = dataset[index]
    except UserError as error:
        return _Finding(str(error))
    duration_s = utterance.duration_s
    if stated_s is not None and duration_s > stated_s + TOLERANCE_S:
        return _Finding(
            f"{dataset.where(index)}: stated to be {stated_s:.2f} s long, but the sound has {duration_s:.2f} s"
        )
    digest = hashlib.sha256(utterance.wave.tobytes()).hexdigest()
    return _Finding("", duration_s, digest, silent=not utterance.wave.any())


def _suspicions(where: str, finding: _Finding, stated_s: float | None) -> list[str]:
    found = []
    if finding.silent:
        found.append(f"{where}: the sound is silent")
    if stated_s is not None and finding.duration_s < stated_s - max(TOLERANCE_S, SHORTER_SHARE * stated_s):
        found.append(f"{where}: stated to be {stated_s:.2f} s long, but the sound has {finding.duration_s:.2f} s")
    return found


@dataclasses.dataclass(frozen=True)
class TokenReport:
    """What the texts become, and how the training would be batched.

    Attributes:
        tokenizer: built from the usable training texts.
        lengths: split → int[u], tokens of each usable utterance, the end of sentence not counted.
        plan: of the training.
    """

    tokenizer: Tokenizer
    lengths: dict[str, np.ndarray]
    plan: BatchPlan


def inspect_tokens(config: Config, reports: dict[str, SplitReport]) -> TokenReport:
    """Tokenize all texts and plan the batches; add to the reports what cannot be used or is suspicious.

    Unknown characters are a problem in training, where they would teach `<unk>`, and a warning elsewhere.

    Raises:
        UserError: no tokenizer can be made, or no training utterance has an admitted length.
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
    """Return how many lines are refused for which reason, most frequent first, to go on a sentence.

    A reason is a message without its file and line, and without what differs: names, paths and numbers.
    """
    reasons = Counter(_reason(problem) for problem in problems)
    return "".join(
        f"{', ' if place else ': '}{n} × {reason}" for place, (reason, n) in enumerate(reasons.most_common())
    )


def _reason(problem: str) -> str:
    without_where = re.sub(r"^.*?:\d+: ", "", problem)
    without_path = re.sub(r"^(?:[^:\s]*/)[^:]*: ", "", without_where)
    return re.sub(r"\d+(?:\.\d+)?", "N", re.sub(r"'[^']*'|\"[^\"]*\"|(?:[^\s:]*/)[^\s:,]+", "…", without_path))


def warn_of_long_words(config: Config, report: SplitReport, tokenizer: Tokenizer) -> None:
    """Warn if words cannot tell checkpoints apart, and say what chooses the best one."""
    if suit_characters(tokenizer, report.texts):
        select_by = config.training.select_by
        chosen = {
            "auto": "training.select_by: auto chooses the best checkpoint by characters",
            "wer": "training.select_by: wer tells checkpoints badly apart, take training.select_by=cer",
        }
        report.warnings.append(
            "as the model writes, there are no blanks between words, so that a whole sentence is one word; "
            + chosen.get(select_by, f"training.select_by: {select_by} suits such texts")
        )


def find_unknown(report: SplitReport, tokenizer: Tokenizer) -> list[str]:
    """Return a message for each text with characters that the tokenizer does not cover."""
    messages = []
    for where, text in zip(report.wheres, report.texts, strict=True):
        if unknown := tokenizer.unknown_characters(text):
            messages.append(f"{where}: no token for {', '.join(map(repr, sorted(unknown)))}")
    return messages


def find_left_out(report: SplitReport, config: DataConfig) -> list[str]:
    """Return a message for each utterance whose length keeps it out of the training."""
    messages = []
    for where, seconds in zip(report.wheres, report.durations_s, strict=True):
        if seconds < config.min_seconds:
            messages.append(
                f"{where}: left out, {seconds:.2f} s are less than data.min_seconds = {config.min_seconds:g}"
            )
        elif seconds > config.max_seconds:
            messages.append(
                f"{where}: left out, {seconds:.2f} s are more than data.max_seconds = {config.max_seconds:g}"
            )
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
