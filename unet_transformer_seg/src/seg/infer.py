"""Segment images with a trained model: `seg infer --run RUN --out FOLDER IMAGES…`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seg import api
from seg.arguments import (
    add_inputs,
    add_instances,
    add_model,
    add_prediction,
    count,
    part_inputs,
    part_models,
    prediction_overrides,
)
from seg.cli import run_command
from seg.config.reader import load_config
from seg.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from seg.untrusted import folder_links, indented

if TYPE_CHECKING:
    from seg.inference.done_record import DoneRecord
    from seg.inference.output import Job
    from seg.inference.predictor import Predictor
    from seg.inference.segment_files import Options


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg infer",
        description="Write an indexed mask for each image, and the image with the colours of its classes laid over it.",
        epilog="Exit codes: 0 all images are segmented, 2 wrong input, or some image could not be read "
        "(the rest are done).",
    )
    add_model(parser, several=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the results")
    parser.add_argument(
        "--skip-done",
        action="store_true",
        help="skip images with complete results in --out from the same model and settings: continues a call that was "
        "stopped",
    )
    parser.add_argument("--no-overlay", action="store_true", help="write only the masks")
    parser.add_argument("--probabilities", action="store_true", help="also write float16[h, w, classes] (npz)")
    parser.add_argument(
        "--values",
        choices=("classes", "source", "colours"),
        default="classes",
        help="contents of the masks: class numbers with a palette (default); the values or colours of the classes in "
        "the masks of the training data, such as 0 and 255; or the colours of the classes, as RGB",
    )
    add_prediction(parser)
    add_instances(parser)
    parser.add_argument("--tile", type=int, nargs=2, metavar=("H", "W"), help="window that moves over larger images")
    add_inputs(parser)
    return parser.parse_intermixed_args()


def list_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the settings that the options change, as `key=value`."""
    tile = [f"inference.tile={arguments.tile}"] if arguments.tile else []
    return [*prediction_overrides(arguments), *tile]


def main() -> int:
    """Segment all images that can be read; return the exit code."""
    arguments = parse_arguments()
    folders, more = part_models(arguments)
    inputs, settings = part_inputs([*more, *arguments.inputs])
    overrides = [*settings, *list_overrides(arguments)]
    config = load_config(folders[0] / "config.yaml", overrides)  # a mistake is answered before jax is imported
    if not inputs:
        found = f"only settings: {', '.join(settings)}" if settings else "none"
        raise UserError(f"expected images or folders, found {found}")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"--out {arguments.out}: expected a folder, this is a file")

    from seg.inference.done_record import DoneRecord, digest_predictor
    from seg.inference.output import plan_jobs
    from seg.inference.segment_files import Options

    has_bands = config.model.labels == "overlapping" and config.model.num_classes > 1
    if config.model.labels == "overlapping" and arguments.values == "colours":
        raise UserError("--values colours: a pixel may have several classes, or none; the overlay shows their colours")
    jobs = plan_jobs(inputs, arguments.out, config.data, has_bands=has_bands)
    print_remarks(jobs, inputs)
    predictor = api.load(folders, checkpoint=arguments.checkpoint, overrides=overrides)
    values = {"classes": (), "source": predictor.mask_values, "colours": predictor.classes.palette}[arguments.values]
    counts_objects = predictor.config.instances.method != "none"
    options = Options(not arguments.no_overlay, arguments.probabilities, counts_objects, values)
    record = DoneRecord(arguments.out, digest_predictor(predictor, options))
    waiting = [job for job in jobs if not (arguments.skip_done and record.is_done(job.source, options.results(job)))]
    if len(waiting) < len(jobs):
        print(f"{count(len(jobs) - len(waiting), 'image')} of {len(jobs)} done already")
    num_bad = segment(predictor, waiting, options, record) if waiting else 0
    if num_bad:
        print(f"{num_bad} of {len(jobs)} files could not be read or written, see above")
    return EXIT_USER_ERROR if num_bad else EXIT_OK


def print_remarks(jobs: "Sequence[Job]", inputs: Sequence[Path]) -> None:
    """Name the results that are renamed, and the files and links in folders that are passed over."""
    from seg.data.images.image_kind import find_unreadable

    for job in jobs:
        if job.is_renamed:
            remark = f"{job.source}: its results are named {job.stem.name}, as its own name is taken or not safe"
            print(indented(remark))
    for folder in filter(Path.is_dir, inputs):
        for line in find_unreadable(folder):
            print(line, file=sys.stderr)
    for path in inputs:
        for link in folder_links(path):
            print(indented(f"{link}: a link to a folder is not searched; name it to have it searched"), file=sys.stderr)


def segment(predictor: "Predictor", jobs: "Sequence[Job]", options: "Options", record: "DoneRecord") -> int:
    """Segment the images and print a summary; return how many files could not be read or written."""
    import numpy as np

    from seg.inference.segment_files import Outcome, segment_files

    outcome = Outcome(objects_k=np.zeros(len(predictor.classes), np.int64))
    try:
        segment_files(predictor, jobs, options, record, outcome)
    except (KeyboardInterrupt, SystemExit, UserError):
        hint = "the same command with --skip-done does the rest"
        print(f"stopped: {outcome.num_done} of {count(len(jobs), 'image')} segmented; {hint}", file=sys.stderr)
        raise
    rate = outcome.num_done / outcome.seconds
    print(
        f"{count(outcome.num_done, 'image')} in {outcome.seconds:.1f} s ({rate:.2f} images/s with reading, writing and "
        f"compilation); results in {record.folder}"
    )
    if options.objects:
        counts = zip(predictor.classes.names, outcome.objects_k, strict=True)
        named = ", ".join(f"{number:,} {name}" for name, number in counts if number) or "none"
        print(f"objects: {named}; a table of each image's is beside its mask")
    return outcome.num_bad


if __name__ == "__main__":
    run_command(main)
