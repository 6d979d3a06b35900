"""Reads every sample of a split and reports what it holds, and each file that cannot be used."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from seg.config import DataConfig
from seg.data import build_dataset
from seg.data.dataset import Sample, SegmentationDataset, count_classes
from seg.data.image_folder import ImageFolder
from seg.data.masks.advice import UnknownValuesError
from seg.data.masks.class_settings import build_label_map
from seg.data.masks.label_map import LabelMap, Reading
from seg.data.masks.mask import Mask
from seg.data.masks.survey import MaskSurvey, describe_unknown, examples, find_differing_palettes
from seg.data.pairing.splits import find_split
from seg.errors import UserError

MAX_OF_A_KIND = 5
"""Problems of one kind that are listed."""

RARE = 0.01
"""Share of the pixels below which a class is called rare."""


@dataclasses.dataclass
class SplitReport:
    """What a split holds.

    Attributes:
        dataset: its usable pairs of files, or the generated samples.
        problems: one message for each sample that cannot be used, but for those whose masks hold unknown values.
        search_remarks: what the search for the files leaves out.
        file_remarks: (kind, file, text) of what is left out of a file, or guessed.
        notes: how the split was made.
        masks: what the masks hold.
        usable: indices of the samples that could be read.
        pixels_k: int64[k], pixels of each class.
        present_pixels_k: int64[k], labelled pixels of the images in which the class occurs.
        images_k: int64[k], images in which the class occurs.
        ignored_pixels: pixels that count nowhere.
        ignored_images: images that have such pixels.
        sizes: (height, width) → number of images.
        names: hash of an image's pixels → names of the samples that have them.
    """

    dataset: SegmentationDataset
    problems: list[str]
    search_remarks: list[str] = dataclasses.field(default_factory=list)
    file_remarks: list[tuple[str, Path, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    masks: MaskSurvey = dataclasses.field(default_factory=MaskSurvey)
    usable: list[int] = dataclasses.field(default_factory=list)
    pixels_k: np.ndarray = dataclasses.field(init=False)
    present_pixels_k: np.ndarray = dataclasses.field(init=False)
    images_k: np.ndarray = dataclasses.field(init=False)
    ignored_pixels: int = 0
    ignored_images: int = 0
    sizes: Counter = dataclasses.field(default_factory=Counter)
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.pixels_k, self.present_pixels_k, self.images_k = np.zeros((3, len(self.dataset.classes)), np.int64)

    @property
    def num_bad(self) -> int:
        """Samples that cannot be used."""
        return len(self.problems) + self.masks.num_unknown

    def examples(self, count: int) -> list[Sample]:
        """Return up to `count` usable samples, evenly spread over the split."""
        step = max(1, len(self.usable) // max(count, 1))
        return [self.dataset[index] for index in self.usable[::step][:count]]


@dataclasses.dataclass(frozen=True)
class _Finding:
    """What one sample holds, or why it cannot be used."""

    index: int
    name: str = ""
    problem: UserError | None = None
    mask: tuple[Mask, Reading, Path] | None = None
    pixels_k: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    digest: str = ""


def inspect_split(config: DataConfig, split: str, seed: int, progress: Callable[..., Iterable]) -> SplitReport:
    """Read all samples of a split with `config.num_threads` threads.

    Args:
        config: the section `data`.
        split: "train", "val" or "test".
        seed: of generated data.
        progress: wraps the iterator, as `tqdm` does; called with `total` and `desc`.

    Raises:
        UserError: the split does not exist, or its classes are not stated.
    """
    report = open_split(config, split, seed)
    with ThreadPoolExecutor(max(1, config.num_threads)) as pool:
        findings = pool.map(lambda i: _inspect(report.dataset, i), range(len(report.dataset)))
        for finding in progress(findings, total=len(report.dataset), desc=split):
            _add(report, finding)
    return report


def open_split(config: DataConfig, split: str, seed: int) -> SplitReport:
    """Return the report of a split of which nothing is read yet; its problems are files without a partner."""
    if config.dataset != "image_folder":
        return SplitReport(build_dataset(config, split, seed), [])
    label_map = build_label_map(config)
    search = find_split(config, split)
    remarks: list[tuple[str, Path, str]] = []

    def remark(kind: str, path: Path, text: str) -> None:
        if kind != "palette":  # `find_differing_palettes` compares those of all splits
            remarks.append((kind, path, text))

    dataset = ImageFolder.of_pairs(search.pairs, label_map, config, remark)
    return SplitReport(dataset, search.problems, search.remarks, remarks, search.notes)


def _inspect(dataset: SegmentationDataset, index: int) -> _Finding:
    mask = None
    try:
        if isinstance(dataset, ImageFolder):
            sample, *mask = dataset.read_sample(index)
            mask = *mask, dataset.pairs[index].mask
        else:
            sample = dataset[index]
    except UserError as error:
        return _Finding(index, problem=error)
    return _Finding(
        index,
        name=sample.name,
        mask=mask,
        pixels_k=count_classes(sample.mask, len(dataset.classes)),
        size=sample.mask.shape,
        digest=hashlib.sha256(repr(sample.image.shape).encode() + sample.image.tobytes()).hexdigest(),
    )


def _add(report: SplitReport, finding: _Finding) -> None:
    if isinstance(finding.problem, UnknownValuesError):
        report.masks.add_unknown(finding.problem)
        return
    if finding.problem:
        report.problems.append(str(finding.problem))
        return
    if finding.mask:
        report.masks.add(*finding.mask)
    present_k = finding.pixels_k > 0
    report.usable.append(finding.index)
    report.pixels_k += finding.pixels_k
    report.present_pixels_k += present_k * finding.pixels_k.sum()
    report.images_k += present_k
    ignored = finding.size[0] * finding.size[1] - int(finding.pixels_k.sum())
    report.ignored_pixels += ignored
    report.ignored_images += ignored > 0
    report.sizes[finding.size] += 1
    report.names.setdefault(finding.digest, []).append(finding.name)


def describe_problems(reports: dict[str, SplitReport], list_all: bool = False) -> list[str]:
    """Return what is wrong with the samples that cannot be used; many of one kind become few lines.

    Args:
        reports: by split.
        list_all: give each sample a line of its own, but for masks of unknown values.
    """
    lines = []
    if label_map := _label_map(reports):
        lines += describe_unknown([report.masks for report in reports.values()], label_map)
    for split, report in reports.items():
        kinds: dict[str, list[str]] = {}
        for problem in report.problems:
            kinds.setdefault(_kind(problem), []).append(problem)
        for problems in kinds.values():
            shown = problems if list_all else problems[:MAX_OF_A_KIND]
            lines += [f"{split}: {problem}" for problem in shown]
            if len(problems) > len(shown):
                lines.append(f"{split}: … and {len(problems) - len(shown):,} more like these; --all lists them")
    return lines


def find_warnings(reports: dict[str, SplitReport]) -> list[str]:
    """Return what is usable and yet suspicious: settings, masks, classes, and equal images across or within splits."""
    warnings = list(next(iter(reports.values())).dataset.notes)
    if label_map := _label_map(reports):
        warnings += find_differing_palettes([report.masks for report in reports.values()], label_map)
    for split, report in reports.items():
        warnings += [f"{split}: {examples(paths)}: {remark}" for remark, paths in report.masks.remarks.items()]
        warnings += [f"{split}: {line}" for line in _odd_classes(report, is_trained=split == "train")]
        if twice := [names for names in report.names.values() if len(names) > 1]:
            warnings.append(f"{split}: {len(twice)} images occur more than once, such as {' = '.join(twice[0])}")
        warnings += [f"{split}: {text}" for text in (*report.search_remarks, *_summarise(report.file_remarks))]
    splits = list(reports)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            if shared := sorted(reports[one].names.keys() & reports[other].names.keys()):
                example = f"{reports[one].names[shared[0]][0]} = {reports[other].names[shared[0]][0]}"
                warnings.append(f"{len(shared)} images of {other} are in {one} too, such as {example}")
    return warnings


def _odd_classes(report: SplitReport, is_trained: bool) -> list[str]:
    """Return which classes are absent in a split, or rare in one that is trained on, or that there is a single one."""
    names, counts_k, total = report.dataset.classes.names, report.pixels_k, report.pixels_k.sum()
    if not report.usable:
        return []
    if not total:
        return ["every pixel of every mask is ignored"]
    lines = []
    absent = [name for name, count in zip(names, counts_k, strict=True) if not count]
    if len(absent) == len(names) - 1:
        only = names[int(np.argmax(counts_k))]
        lines.append(f"all {len(report.usable)} masks hold one class alone, {only}")
    if absent:
        lines.append(f"no pixel of {', '.join(absent)}")
    shares = {name: count / total for name, count in zip(names, counts_k, strict=True) if count}
    rare = [f"{name} ({share:.2%} of the pixels)" for name, share in shares.items() if share < RARE]
    if rare and is_trained:
        lines.append(
            f"rare: {', '.join(rare)}. A model may never predict such a class; loss.class_weighting: median_frequency "
            "gives it more weight"
        )
    return lines


def _label_map(reports: dict[str, SplitReport]) -> LabelMap | None:
    """Return how the masks are read; None of generated data."""
    return getattr(next(iter(reports.values())).dataset, "label_map", None)


def _kind(problem: str) -> str:
    """Return the message without what differs from file to file: names of files, numbers and quoted words."""
    return re.sub(r"\S*[/\\]\S*|'[^']*'|\d+", "…", problem)


def _summarise(remarks: list[tuple[str, Path, str]]) -> list[str]:
    """Return a line for each kind of remark, with the number of its files and the first of them."""
    by_kind: dict[str, dict[Path, str]] = {}
    for kind, path, text in sorted(remarks):
        by_kind.setdefault(kind, {}).setdefault(path, text)
    lines = []
    for kind, texts in by_kind.items():
        path, text = next(iter(texts.items()))
        count = f"{len(texts)} files with a remark on their {kind}, such as " if len(texts) > 1 else ""
        lines.append(f"{count}{path}: {text}")
    return lines
