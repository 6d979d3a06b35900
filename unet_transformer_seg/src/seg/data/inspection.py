"""Reads every sample of a split and reports its contents, and each file that cannot be used."""

import dataclasses
import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from seg.config import DataConfig
from seg.data import build_dataset
from seg.data.dataset import Sample, SegmentationDataset, count_labelled
from seg.data.image_folder import ImageFolder
from seg.data.layered_folder import LayeredFolder, is_layered
from seg.data.masks.advice import UnknownValuesError
from seg.data.masks.class_settings import build_label_map
from seg.data.masks.label_map import LabelMap
from seg.data.masks.survey import MaskSurvey, describe_unknown, examples, find_differing_palettes
from seg.data.pairing.splits import find_split
from seg.errors import UserError

MAX_OF_A_KIND = 5  # listed problems of one kind
RARE = 0.01  # fraction of the pixels below which a class is rare


DARK = 1 / 16  # largest value of a split, with 1 = white, below which its images are dark

Extent = tuple[float, float]


@dataclasses.dataclass
class SplitReport:
    """The contents of a split."""

    dataset: SegmentationDataset  # its usable pairs of files, or the generated samples
    problems: list[str]  # a message for each unusable sample, except for those in `masks.unknown`
    search_remarks: list[str] = dataclasses.field(default_factory=list)  # files that the search left out
    # (kind, file, text) of what is dropped or guessed in a file
    file_remarks: list[tuple[str, Path, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)  # how the split was made
    masks: MaskSurvey = dataclasses.field(default_factory=MaskSurvey)  # contents of the mask files
    usable: list[int] = dataclasses.field(default_factory=list)  # indices of the samples that could be read
    pixels_k: np.ndarray = dataclasses.field(init=False)  # int64[k], pixels of each class
    labelled_k: np.ndarray = dataclasses.field(init=False)  # int64[k], pixels that are not ignored for the class
    # int64[k], labelled pixels of the images with the class
    present_pixels_k: np.ndarray = dataclasses.field(init=False)
    images_k: np.ndarray = dataclasses.field(init=False)  # int64[k], images with the class
    ignored_pixels: int = 0  # pixels with an ignored label
    ignored_images: int = 0  # images with such pixels
    sizes: Counter = dataclasses.field(default_factory=Counter)  # (height, width) → number of images
    # Smallest and largest value of the images as the model sees them, before normalisation
    lowest: float = math.inf
    highest: float = -math.inf
    has_floats: bool = False  # whether images have more than 8 bits
    # Hash of an image's pixels → names of the samples with these
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        shape = 4, len(self.dataset.classes)
        self.pixels_k, self.labelled_k, self.present_pixels_k, self.images_k = np.zeros(shape, np.int64)

    @property
    def num_bad(self) -> int:
        """Number of unusable samples."""
        return len(self.problems) + sum(len(paths) for paths, _ in self.masks.unknown.values())

    def examples(self, count: int) -> list[Sample]:
        """Return up to `count` usable samples, evenly spread over the split."""
        step = max(1, len(self.usable) // max(count, 1))
        return [self.dataset[index] for index in self.usable[::step][:count]]

    def add_sample(
        self,
        index: int,
        name: str,
        size: tuple[int, int],
        pixels_k: np.ndarray,
        labelled_k: np.ndarray,
        digest: str,
        extent: Extent,
    ) -> None:
        """Count a usable sample; `extent` is the smallest and the largest value of its image."""
        self.lowest, self.highest = min(self.lowest, extent[0]), max(self.highest, extent[1])
        present_k = pixels_k > 0
        ignored = size[0] * size[1] - int(labelled_k.min())
        self.usable.append(index)
        self.pixels_k += pixels_k
        self.labelled_k += labelled_k
        self.present_pixels_k += present_k * labelled_k
        self.images_k += present_k
        self.ignored_pixels += ignored
        self.ignored_images += ignored > 0
        self.sizes[size] += 1
        self.names.setdefault(digest, []).append(name)


def inspect_split(
    config: DataConfig, split: str, seed: int, progress: Callable[..., Iterable], labels: str = "exclusive"
) -> SplitReport:
    """Return the report of a split, read with `config.num_threads` threads.

    `seed` is that of generated data; `progress` wraps an iterator as `tqdm` does, called with `total` and `desc`;
    `labels` is `model.labels`.
    """
    report = _open_split(config, split, seed, labels)
    dataset, num_classes = report.dataset, len(report.dataset.classes)
    has_label_map = getattr(dataset, "label_map", None) is not None

    def inspect(index: int) -> Callable[[], None]:
        """Read a sample in a worker thread; the result adds it to the report in the calling one."""
        try:
            sample, *mask = dataset.read_sample(index) if has_label_map else (dataset[index],)
        except UnknownValuesError as error:
            return functools.partial(report.masks.add_unknown, error)
        except UserError as error:
            return functools.partial(report.problems.append, str(error))
        digest = hashlib.sha256(repr(sample.image.shape).encode() + sample.image.tobytes()).hexdigest()
        white = 255 if sample.image.dtype == np.uint8 else 1
        extent = float(sample.image.min()) / white, float(sample.image.max()) / white
        labels = count_labelled(sample.mask, num_classes)
        counts = index, sample.name, sample.mask.shape[:2], *labels, digest, extent

        def add() -> None:
            if mask:
                report.masks.add(*mask, dataset.pairs[index].mask)
            report.add_sample(*counts)
            report.has_floats |= sample.image.dtype == np.float32

        return add

    with ThreadPoolExecutor(max(1, config.num_threads)) as pool:
        for add in progress(pool.map(inspect, range(len(dataset))), total=len(dataset), desc=split):
            add()
    return report


def _open_split(config: DataConfig, split: str, seed: int, labels: str) -> SplitReport:
    """Return the report of a split before it is read; its problems are files that cannot be paired."""
    if config.dataset != "image_folder":
        return SplitReport(build_dataset(config, split, seed, labels), [])
    search = find_split(config, split)
    remarks: list[tuple[str, Path, str]] = []

    def remark(kind: str, path: Path, text: str) -> None:
        if kind != "palette":  # `find_differing_palettes` compares those of all splits
            remarks.append((kind, path, text))

    if is_layered(config, labels):
        dataset = LayeredFolder(search.pairs, config, remark)
    else:
        dataset = ImageFolder(search.pairs, build_label_map(config), config, remark)
    return SplitReport(dataset, search.problems, search.remarks, remarks, search.notes)


def describe_problems(reports: dict[str, SplitReport], list_all: bool = False) -> list[str]:
    """Return the problems of the unusable samples, by default a few lines for each kind.

    With `list_all`, each sample has its own line, except for masks with unknown values.
    """
    lines = []
    if label_map := _label_map(reports):
        lines += describe_unknown([report.masks for report in reports.values()], label_map)
    for split, report in reports.items():
        kinds: dict[str, list[str]] = {}
        for problem in report.problems:
            # A kind is a message without file names, numbers and quoted words.
            kind = re.sub(r"\S*[/\\]\S*|'[^']*'|\d+", "…", problem)
            kinds.setdefault(kind, []).append(problem)
        for problems in kinds.values():
            shown = problems if list_all else problems[:MAX_OF_A_KIND]
            lines += [f"{split}: {problem}" for problem in shown]
            if len(problems) > len(shown):
                lines.append(f"{split}: … and {len(problems) - len(shown):,} more like these; --all lists them")
    return lines


def find_warnings(reports: dict[str, SplitReport]) -> list[str]:
    """Return what is usable but suspicious: settings, masks, classes, and duplicates in and across splits."""
    warnings = list(next(iter(reports.values())).dataset.notes)
    if label_map := _label_map(reports):
        warnings += find_differing_palettes([report.masks for report in reports.values()], label_map)
    for split, report in reports.items():
        warnings += [f"{split}: {examples(paths)}: {remark}" for remark, paths in report.masks.remarks.items()]
        warnings += [f"{split}: {line}" for line in _odd_classes(report, is_trained=split == "train")]
        if report.has_floats and report.lowest >= 0 and report.highest < DARK:
            warnings.append(
                f"{split}: the images are dark: no value is above {report.highest:.2%} of white; "
                "data.range=percentiles takes black and white from the images"
            )
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
    """Return warnings of classes that are absent, the only one, or rare in a split for training."""
    classes, counts_k, total_k = report.dataset.classes, report.pixels_k, report.labelled_k
    names = classes.names
    if not report.usable:
        return []
    if not total_k.any():
        return ["every pixel of every mask is ignored"]
    lines = []
    absent = [name for name, count in zip(names, counts_k, strict=True) if not count]
    if len(absent) == len(names) - 1 and not classes.overlapping:
        lines.append(f"all {len(report.usable)} masks have a single class, {names[int(np.argmax(counts_k))]}")
    if absent:
        lines.append(f"no pixel of {', '.join(absent)}")
    counts = zip(names, counts_k, total_k, strict=True)
    fractions = {name: count / total for name, count, total in counts if count}
    rare = [f"{name} ({fraction:.2%} of the pixels)" for name, fraction in fractions.items() if fraction < RARE]
    if rare and is_trained:
        lines.append(
            f"rare: {', '.join(rare)}. A model may never predict such a class; loss.class_weighting: median_frequency "
            "gives it more weight"
        )
    return lines


def _label_map(reports: dict[str, SplitReport]) -> LabelMap | None:
    """Return the label map of the masks; None for generated data."""
    return getattr(next(iter(reports.values())).dataset, "label_map", None)


def _summarise(remarks: list[tuple[str, Path, str]]) -> list[str]:
    """Return a line for each kind of remark: the number of files and the first of them."""
    by_kind: dict[str, dict[Path, str]] = {}
    for kind, path, text in sorted(remarks):
        by_kind.setdefault(kind, {}).setdefault(path, text)
    lines = []
    for kind, texts in by_kind.items():
        path, text = next(iter(texts.items()))
        count = f"{len(texts)} files with a remark on their {kind}, such as " if len(texts) > 1 else ""
        lines.append(f"{count}{path}: {text}")
    return lines
