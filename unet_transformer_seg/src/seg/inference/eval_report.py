"""Writes the results of an evaluation: metrics.json, results.csv, samples.csv and two pictures."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from seg.classes import ClassTable
from seg.data import Sample
from seg.files import naming_the_file, replace_text, writing_aside
from seg.inference.scoring import SampleScore
from seg.instances.matching import summarise
from seg.metrics import SegMetrics
from seg.pictures import as_picture, draw_comparison
from seg.untrusted import harmless

PER_CLASS = ("iou", "dice", "precision", "recall", "true_share", "predicted_share")
MAX_NUMBERED = 25  # largest number of classes whose confusion matrix shows numbers


def write_tables(
    folder: Path, metrics: SegMetrics, scores: Sequence[SampleScore], classes: ClassTable, facts: dict
) -> None:
    """Write the numbers; `facts`, how they were made, come first in metrics.json."""
    counts = sum(score.counts for score in scores)
    name = "confusion_matrices" if classes.overlapping else "confusion_matrix"
    content = {**facts, **metrics.to_dict(classes.names), name: counts.tolist()}
    objects = summarise_objects(scores, classes)
    if objects:
        content["objects"] = objects
    replace_text(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
    rows = [
        [name, *(_shown(getattr(metrics, column)[i]) for column in PER_CLASS)] for i, name in enumerate(classes.names)
    ]
    _write_csv(folder / "results.csv", ["class", *PER_CLASS], rows)
    columns = ["sample", "mean_iou", "pixel_accuracy"]
    rows = [[harmless(score.name, kept=""), _shown(score.mean_iou), _shown(score.pixel_accuracy)] for score in scores]
    for label in scores[0].objects if scores else ():
        columns += [f"{classes.names[label]}: {what}" for what in ("true", "predicted", "average_precision")]
        for row, score in zip(rows, (score.objects[label] for score in scores), strict=True):
            row += [str(score.num_true), str(score.num_predicted), _shown(score.average_precision)]
    _write_csv(folder / "samples.csv", columns, rows)


def summarise_objects(scores: Sequence[SampleScore], classes: ClassTable) -> list[dict]:
    """Return the scores of the objects of each counted class; [] if none were counted."""
    labels = scores[0].objects if scores else ()
    return [{"class": classes.names[k], **summarise([score.objects[k] for score in scores])} for k in labels]


def format_objects(objects: Sequence[dict]) -> str:
    """Return a line for each class whose objects were counted."""
    width = max(len(row["class"]) for row in objects)
    lines = [f"{'objects':<{width}}  {'true':>8}  {'predicted':>9}      AP  precision  recall      F1    Dice"]
    for row in objects:
        numbers = ("average_precision", "precision_50", "recall_50", "f1_50", "dice")
        shown = [_shown(math.nan if row[name] is None else row[name])[:6] or "–" for name in numbers]
        ap, precision, recall, f1, dice = shown
        counts = f"{row['true_objects']:>8,}  {row['predicted_objects']:>9,}"
        lines.append(f"{row['class']:<{width}}  {counts}  {ap:>6}  {precision:>9}  {recall:>6}  {f1:>6}  {dice:>6}")
    return "\n".join(lines)


def draw_confusion(counts: np.ndarray, classes: ClassTable, path: Path) -> None:
    """Draw the confusion matrix int64[k, k], [true, predicted], each row as percentages of its true class.

    Overlapping classes have a row each: the percentages of its pixels that are missed and found, and of those that are
    falsely found.
    """
    if classes.overlapping:
        _draw_errors_of_classes(counts, classes, path)
        return
    confusion_kk = counts
    total_k1 = confusion_kk.sum(axis=1, keepdims=True)
    percent_kk = 100 * confusion_kk / np.where(total_k1 == 0, np.nan, total_k1)
    k = len(classes)
    side = max(5, 2.5 + (0.6 if k <= MAX_NUMBERED else 0.2) * k)  # inches
    figure = Figure(figsize=(side + 0.8, side), layout="constrained", dpi=110)
    axes = figure.subplots()
    image = axes.imshow(percent_kk, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(k), classes.names, rotation=90 if k > 6 else 30, ha="center" if k > 6 else "right")
    axes.set_yticks(range(k), classes.names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the pixels of the true class")
    for (row, column), value in np.ndenumerate(percent_kk) if k <= MAX_NUMBERED else ():
        if not math.isnan(value):
            text = f"{value:.0f}" if 0 < round(value) < 100 or value in (0, 100) else f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", color="white" if value > 60 else "black")
    with writing_aside(path) as aside:
        figure.savefig(aside, format="png")


def _draw_errors_of_classes(counts_k22: np.ndarray, classes: ClassTable, path: Path) -> None:
    missed_k, found_k, false_k = counts_k22[:, 1, 0], counts_k22[:, 1, 1], counts_k22[:, 0, 1]
    true_k = np.where(missed_k + found_k == 0, np.nan, missed_k + found_k)
    figure = Figure(figsize=(6, 1.5 + 0.5 * len(classes)), layout="constrained", dpi=110)
    axes = figure.subplots()
    rows, start_k = np.arange(len(classes)), np.zeros(len(classes))
    for label, number_k, colour in (
        ("found", found_k, "#2a7"),
        ("missed", missed_k, "#bbb"),
        ("false", false_k, "#d55"),
    ):
        share_k = 100 * number_k / true_k
        axes.barh(rows, share_k, left=start_k, color=colour, label=label)
        start_k = start_k + share_k
    axes.set_yticks(rows, classes.names)
    axes.invert_yaxis()
    axes.set_xlabel("% of the true pixels of the class")
    axes.legend()
    with writing_aside(path) as aside:
        figure.savefig(aside, format="png")


def draw_extremes(
    extremes: Sequence[tuple[str, SampleScore]],
    answers: Sequence[tuple[Sample, np.ndarray]],
    classes: ClassTable,
    path: Path,
    shown_channels: Sequence[int] = (),
) -> None:
    """Draw image, truth, prediction and errors of the best and the worst samples.

    `extremes` are ("best" or "worst", score), `answers` their (sample, prediction); `shown_channels` as of
    `seg.pictures.as_picture`.
    """
    names = [f"{kind}: {score.name}, mean IoU {score.mean_iou:.3f}" for kind, score in extremes]
    samples, predictions = [sample for sample, _ in answers], [prediction for _, prediction in answers]
    images, masks = [as_picture(s.image, shown_channels) for s in samples], [s.mask for s in samples]
    with naming_the_file(path):
        draw_comparison(images, masks, predictions, classes, path, names)


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    replace_text(path, text.getvalue())


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
