"""Scores a predictor on a data set, every image and mask at its own size."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from seg.classes import IGNORE_LABEL, ClassTable
from seg.data import Sample, SegmentationDataset
from seg.data.masks.object_numbers import INSIDE
from seg.errors import UserError
from seg.inference.predictor import Predictor
from seg.instances.matching import ObjectScore, score_objects
from seg.instances.objects import Objects, counted_classes, find_objects
from seg.metrics import compute_metrics


@dataclasses.dataclass(frozen=True)
class SampleScore:
    """The score of one sample."""

    index: int  # position in the data set
    name: str  # of the sample
    counts: np.ndarray  # int64[k, k] or [k, 2, 2], in pixels, see `seg.metrics`
    mean_iou: float  # over the classes in its truth or prediction; NaN if every pixel is ignored
    pixel_accuracy: float  # share of its pixels that are right; NaN likewise
    # Class → score of its objects, if `instances.method` finds any
    objects: dict[int, ObjectScore] = dataclasses.field(default_factory=dict)


def score_samples(predictor: Predictor, dataset: SegmentationDataset) -> Iterator[SampleScore]:
    """Yield the score of each sample, in order."""
    indexed = ((i, dataset[i]) for i in range(len(dataset)))
    items = (((i, sample), sample.image) for i, sample in indexed)
    for (index, sample), _, prediction in predictor.predict_many(items):
        counts = predictor.labels.count_on_host(sample.mask, prediction)
        metrics = compute_metrics(counts)
        objects = compare_objects(predictor, dataset, index, sample.mask, prediction)
        yield SampleScore(index, sample.name, counts, metrics.mean_iou, metrics.pixel_accuracy, objects)


def compare_objects(
    predictor: Predictor, dataset: SegmentationDataset, index: int, mask_hw: np.ndarray, prediction_hw: np.ndarray
) -> dict[int, ObjectScore]:
    """Return the score of the objects of each counted class; nothing is counted at ignored pixels.

    The true objects are those that the data set numbers, else the connected components of the mask.
    """
    settings, names = predictor.config.instances, predictor.classes.names
    if settings.method == "none":
        return {}
    counted_hw = mask_hw != IGNORE_LABEL
    predicted = find_objects(np.where(counted_hw, prediction_hw, 0), settings, names)
    numbers_hw = dataset.read_objects(index)
    if numbers_hw is None:
        plain = dataclasses.replace(settings, method="components", min_area=0)
        true = find_objects(np.where(counted_hw, mask_hw, 0), plain, names)
    else:
        inside = 0 if len(names) == 1 else INSIDE
        true = Objects(numbers_hw, np.full(numbers_hw.max(initial=0), inside), names)
    return {
        label: score_objects(true.of_class(label), predicted.of_class(label))
        for label in counted_classes(settings, names)
    }


def check_classes(dataset: ClassTable, model: ClassTable) -> None:
    """Refuse a data set with other classes than the model was trained on, or with labels of the other kind."""
    if dataset.overlapping != model.overlapping:
        kinds = {True: "overlapping", False: "exclusive"}
        raise UserError(
            f"the data set has {kinds[dataset.overlapping]} labels, the model was trained on "
            f"{kinds[model.overlapping]} ones"
        )
    if dataset.names != model.names:
        raise UserError(
            f"the data set has the classes {', '.join(dataset.names)}; "
            f"the model was trained on {', '.join(model.names)}; they must be the same, in the same order"
        )


def pick_extremes(scores: Iterable[SampleScore], number: int) -> list[tuple[str, SampleScore]]:
    """Return ("best" or "worst", score) of up to `number` samples each: best first, worst last.

    No sample is in both; those whose pixels are all ignored are left out.
    """
    ranked = sorted((s for s in scores if not np.isnan(s.mean_iou)), key=lambda s: -s.mean_iou)
    best = ranked[: min(number, (len(ranked) + 1) // 2)]
    worst = ranked[max(len(ranked) - number, len(best)) :]
    return [("best", s) for s in best] + [("worst", s) for s in worst]


def predict_again(
    predictor: Predictor, dataset: SegmentationDataset, scores: Iterable[SampleScore]
) -> list[tuple[Sample, np.ndarray]]:
    """Return (sample, prediction) of a few samples: all predictions of a pass would not fit into memory."""
    samples = [dataset[score.index] for score in scores]
    return [(sample, mask) for sample, _, mask in predictor.predict_many((s, s.image) for s in samples)]
