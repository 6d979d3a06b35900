"""Segment images with a trained model: `python -m seg.infer --run RUN --out FOLDER IMAGES…`."""

import argparse
import sys
from pathlib import Path

from seg.cli import run_command
from seg.config.reader import load_config, to_plain
from seg.config.schema import SCALE_MEANING
from seg.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from seg.file_names import folder_links
from seg.untrusted import indented


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m seg.infer",
        description="Write for each image an indexed mask, and the image with the classes' colours laid over it.",
        epilog="Exit codes: 0 all images are segmented, 2 wrong input, or some image could not be read "
        "(the others are done).",
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, help="run directory of a training")
    model.add_argument("--model", type=Path, metavar="FOLDER", help="exported or converted model")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="of the run (default: best)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the results; made if need be")
    parser.add_argument(
        "--skip-done",
        action="store_true",
        help="leave out images that have complete results in --out, made by the same model with the same settings: "
        "continues a call that was stopped",
    )
    parser.add_argument("--no-overlay", action="store_true", help="write the masks only")
    parser.add_argument("--probabilities", action="store_true", help="write float16[h, w, classes] (npz), too")
    parser.add_argument(
        "--values",
        choices=("classes", "source", "colours"),
        default="classes",
        help="what masks hold: class numbers with a palette (default); the values or colours that stood for the "
        "classes in the masks of the training data, such as 0 and 255; or the classes' colours, as RGB",
    )
    mirror = "average with the mirrored image, at half the speed (default: as the config says)"
    parser.add_argument("--mirror", "--tta", action=argparse.BooleanOptionalAction, help=mirror)
    parser.add_argument("--tile", type=int, nargs=2, metavar=("H", "W"), help="window that moves over larger images")
    parser.add_argument(
        "--scale", metavar="{trained,native,FACTOR}", help=f"{SCALE_MEANING} (default: as the config says)"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE",
        help="files, folders with images, and settings as key=value, for example data.value_range=[0,4095]",
    )
    return parser.parse_intermixed_args()


def part_inputs(inputs: list[str]) -> tuple[list[Path], list[str]]:
    """Return the files and the settings; what has a '=' and is no file that exists is a setting."""
    settings = [text for text in inputs if "=" in text and not Path(text).exists()]
    return [Path(text) for text in inputs if text not in settings], settings


def list_overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the changes of the model's own settings that the arguments ask for."""
    overrides = [] if arguments.mirror is None else [f"inference.mirror={str(arguments.mirror).lower()}"]
    if arguments.tile:
        overrides.append(f"inference.tile={arguments.tile}")
    if arguments.scale:
        overrides.append(f"inference.scale={arguments.scale}")
    return overrides


def digest_predictor(predictor, options) -> str:
    """Return the SHA-256 of all that decides what a result holds: the model, its settings, the options."""
    from seg.inference.done_record import digest_model

    settings = {name: to_plain(getattr(predictor.config, name)) for name in ("model", "data", "inference")}
    settings |= {"classes": to_plain(predictor.classes), "options": to_plain(options)}
    return digest_model(predictor.variables, settings)


def count(number: int, noun: str) -> str:
    """Return the number with its noun, as in "1 image" and "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def main() -> int:
    """Segment all images that can be read; return the exit code."""
    arguments = parse_arguments()
    inputs, settings = part_inputs(arguments.inputs)
    folder, overrides = arguments.run or arguments.model, [*settings, *list_overrides(arguments)]
    load_config(folder / "config.yaml", overrides)  # a mistake is answered before jax is imported
    if not inputs:
        raise UserError(f"expected images or folders, found settings alone: {', '.join(settings)}")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"--out {arguments.out}: expected a folder, this is a file")

    from seg.data.pairing.image_names import find_unreadable
    from seg.inference.done_record import DoneRecord
    from seg.inference.output import plan_jobs
    from seg.inference.predictor import explain_old_scale, load_predictor
    from seg.inference.segment_files import Options, Outcome, segment_files

    jobs = plan_jobs(inputs, arguments.out)
    for job in jobs:
        if job.is_renamed:
            told = f"{job.source}: the results are called {job.stem.name}, as their own name is taken or not safe"
            print(indented(told))
    for text in [text for path in inputs if path.is_dir() for text in find_unreadable(path)]:
        print(text, file=sys.stderr)
    for link in [link for path in inputs for link in folder_links(path)]:
        print(indented(f"{link}: a link to a folder is not searched; name it to have it searched"), file=sys.stderr)
    predictor = load_predictor(folder, arguments.checkpoint, overrides)
    if line := explain_old_scale(folder, predictor.config):
        print(line, file=sys.stderr)
    values = {"classes": (), "source": predictor.mask_values, "colours": predictor.classes.palette}[arguments.values]
    options = Options(not arguments.no_overlay, arguments.probabilities, values)
    record = DoneRecord(arguments.out, digest_predictor(predictor, options))
    waiting = [job for job in jobs if not (arguments.skip_done and record.is_done(job.source, options.results(job)))]
    if len(waiting) < len(jobs):
        print(f"{count(len(jobs) - len(waiting), 'image')} of {len(jobs)} done already")
    outcome = Outcome()
    try:
        if waiting:
            segment_files(predictor, waiting, options, record, outcome)
    except (KeyboardInterrupt, SystemExit, UserError):
        hint = "the same command with --skip-done does the rest"
        print(f"stopped: {outcome.num_done} of {count(len(waiting), 'image')} segmented; {hint}", file=sys.stderr)
        raise
    if waiting:
        print(
            f"{count(outcome.num_done, 'image')} in {outcome.seconds:.1f} s ({outcome.num_done / outcome.seconds:.2f} "
            f"images/s with reading, writing and compilation); results in {arguments.out}"
        )
    if outcome.num_bad:
        print(f"{outcome.num_bad} of {len(jobs)} files could not be read or written, see above")
        return EXIT_USER_ERROR
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
