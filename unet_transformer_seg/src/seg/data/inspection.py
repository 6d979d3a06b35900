"""Reads every sample of a split and reports what it holds, and each file that cannot be used."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from seg.config import DataConfig
from seg.data import build_dataset
from seg.data.dataset import Sample, SegmentationDataset, count_classes
from seg.data.image_folder import ImageFolder
from seg.data.label_map import build_label_map
from seg.data.pairs import find_pairs
from seg.errors import UserError


@dataclasses.dataclass
class SplitReport:
    """What a split holds.

    Attributes:
        dataset: its usable pairs of files, or the generated samples.
        problems: one message for each sample that cannot be used.
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

    def examples(self, count: int) -> list[Sample]:
        """Return up to `count` usable samples, evenly spread over the split."""
        step = max(1, len(self.usable) // max(count, 1))
        return [self.dataset[index] for index in self.usable[::step][:count]]


@dataclasses.dataclass(frozen=True)
class _Finding:
    """What one sample holds, or why it cannot be used."""

    index: int
    name: str = ""
    problem: str = ""
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
    pairs, problems = find_pairs(config, getattr(config, f"{split}_split"))
    return SplitReport(ImageFolder.of_pairs(pairs, label_map, config.max_pixels), problems)


def _inspect(dataset: SegmentationDataset, index: int) -> _Finding:
    try:
        sample = dataset[index]
    except UserError as error:
        return _Finding(index, problem=str(error))
    return _Finding(
        index,
        name=sample.name,
        pixels_k=count_classes(sample.mask, len(dataset.classes)),
        size=sample.mask.shape,
        digest=hashlib.sha256(repr(sample.image.shape).encode() + sample.image.tobytes()).hexdigest(),
    )


def _add(report: SplitReport, finding: _Finding) -> None:
    if finding.problem:
        report.problems.append(finding.problem)
        return
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


def find_warnings(reports: dict[str, SplitReport]) -> list[str]:
    """Return what is usable and yet suspicious: absent classes, and equal images across or within splits."""
    warnings = []
    for split, report in reports.items():
        absent = [n for n, count in zip(report.dataset.classes.names, report.images_k, strict=True) if not count]
        if absent and report.usable:
            warnings.append(f"{split}: no pixel of {', '.join(absent)}")
        if twice := [names for names in report.names.values() if len(names) > 1]:
            warnings.append(f"{split}: {len(twice)} images occur more than once, such as {' = '.join(twice[0])}")
    splits = list(reports)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            if shared := sorted(reports[one].names.keys() & reports[other].names.keys()):
                example = f"{reports[one].names[shared[0]][0]} = {reports[other].names[shared[0]][0]}"
                warnings.append(f"{len(shared)} images of {other} are in {one} too, such as {example}")
    return warnings
