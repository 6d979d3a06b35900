"""Score a trained model on a split: `seg eval --run RUN [--split test] [key=value …]`."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from seg import api
from seg.arguments import add_instances, add_model, add_prediction, part_models, prediction_overrides
from seg.cli import run_command
from seg.config import DataConfig
from seg.config.reader import load_config, to_plain
from seg.errors import EXIT_OK, UserError

if TYPE_CHECKING:
    from seg.data import SegmentationDataset
    from seg.inference.predictor import Predictor
    from seg.inference.scoring import SampleScore

NUM_EXTREMES = 4


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg eval",
        description="Score a trained model, or several together, on a split of its data set, every image and mask "
        "at its own size. Prints a table; writes metrics.json, results.csv (classes), samples.csv, "
        "confusion_matrix.png and extremes.png.",
        epilog="Exit codes: 0 scored, 2 wrong input.",
    )
    add_model(parser, several=True)
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="default: val")
    add_prediction(parser)
    add_instances(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="default: eval_SPLIT in the run, beside several runs; a model folder is not written to",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.root=FOLDER")
    return parser.parse_intermixed_args()


def warn_of_trained_images(dataset: "SegmentationDataset", trained: DataConfig, run: Path) -> None:
    """Warn if changed settings put images of the training split into this one."""
    from seg.data.image_folder import ImageFolder
    from seg.data.pairing.splits import find_split

    if not isinstance(dataset, ImageFolder) or trained.dataset != "image_folder":
        return
    try:
        images = {pair.image.resolve() for pair in find_split(trained, "train").pairs}
    except UserError:  # the training images are not here
        return
    if count := sum(pair.image.resolve() in images for pair in dataset.pairs):
        print(f"warning: {run} was trained on {count} of these {len(dataset)} images, so the scores are too high")


def main() -> int:
    """Score the split; return the exit code."""
    arguments = parse_arguments()
    folders, settings = part_models(arguments)
    settings += arguments.overrides
    overrides = [*settings, *prediction_overrides(arguments)]
    if arguments.model and not arguments.out:
        raise UserError("--out FOLDER is needed with --model: a model folder may be shared, and scores name your data")
    config = load_config(folders[0] / "config.yaml", overrides)  # answers a mistake before jax is imported

    from tqdm import tqdm

    from seg.data import build_dataset
    from seg.inference import scoring

    dataset = build_dataset(config.data, arguments.split, config.seed, config.model.labels)
    if arguments.run and arguments.split != "train" and (settings or len(folders) > 1):
        for folder in folders:
            warn_of_trained_images(dataset, load_config(folder / "config.yaml").data, folder)
    predictor = api.load(folders, checkpoint=arguments.checkpoint, overrides=overrides)
    scoring.check_classes(dataset.classes, predictor.classes)
    beside = folders[0] if len(folders) == 1 else folders[0].parent
    folder = arguments.out or beside / f"eval_{arguments.split}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot make this folder ({error.strerror})") from None
    start = time.perf_counter()
    samples = scoring.score_samples(predictor, dataset)
    scores = list(tqdm(samples, total=len(dataset), unit="image", disable=None, file=sys.stderr))
    seconds = time.perf_counter() - start
    report(folder, folders, arguments, predictor, dataset, scores, seconds)
    print(f"{len(scores)} images in {seconds:.1f} s, {len(scores) / seconds:.2f} images/s with reading and compilation")
    print(f"results: {folder}")
    return EXIT_OK


def report(
    folder: Path,
    models: list[Path],
    arguments: argparse.Namespace,
    predictor: "Predictor",
    dataset: "SegmentationDataset",
    scores: "list[SampleScore]",
    seconds: float,
) -> None:
    """Write the tables and pictures, and print the table."""
    from seg.inference import eval_report, scoring
    from seg.metrics import compute_metrics, format_table, warn_never_predicted

    inference, classes = predictor.config.inference, predictor.classes
    counts = sum(score.counts for score in scores)
    metrics = compute_metrics(counts)
    facts = {
        "run": ", ".join(map(str, models)),
        "split": arguments.split,
        "checkpoint": arguments.checkpoint,
        "scale": inference.scale,
        "mirror": inference.mirror,
        "scales": inference.scales,
        "logit_shift": inference.logit_shift,
        "tile": predictor.tile,
        "overlap": inference.overlap,
        **({"thresholds": predictor.labels.thresholds} if classes.overlapping else {}),
        "instances": to_plain(predictor.config.instances),
        "num_samples": len(scores),
        "seconds": round(seconds, 3),
    }
    objects = eval_report.summarise_objects(scores, classes)
    eval_report.write_tables(folder, metrics, scores, classes, facts)
    eval_report.draw_confusion(counts, classes, folder / "confusion_matrix.png")
    extremes = scoring.pick_extremes(scores, NUM_EXTREMES)
    answers = scoring.predict_again(predictor, dataset, [score for _, score in extremes])
    eval_report.draw_extremes(extremes, answers, classes, folder / "extremes.png", predictor.config.data.shown_channels)
    print(format_table(metrics, classes.names))
    if objects:
        print(f"\n{eval_report.format_objects(objects)}")
    for warning in warn_never_predicted(metrics, classes.names):
        print(warning)


if __name__ == "__main__":
    run_command(main)
