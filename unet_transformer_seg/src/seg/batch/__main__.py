"""Segment many images as shards: `seg batch --model MODEL --out FOLDER FILES…`, or `python -m seg.batch …`."""

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seg import api
from seg.arguments import add_inputs, add_instances, add_model, add_prediction, count, part_inputs, prediction_overrides
from seg.batch.shards import Shard, find_stale, parse_share, plan_shards
from seg.cli import run_command
from seg.config.reader import load_config
from seg.errors import EXIT_OK, EXIT_USER_ERROR, UserError

if TYPE_CHECKING:
    from seg.batch.segment_shard import Counts
    from seg.inference.predictor import Predictor
    from seg.inference.segment_files import Options

SHARD_FILES = 256
MAX_NAMED = 3
"""Stale parts that a message names."""


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="seg batch",
        description="Segment many images. The input is divided into shards; each becomes masks in --out and a part: a "
        "file of JSON lines with the mask and the pixels of each class, which appears when all its masks are there. "
        "The same command continues a call that was stopped. An image that cannot be read gets a line with the error.",
        epilog="Exit codes: 0 all images segmented, 2 wrong input, or some images unreadable (the rest is done).",
    )
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the masks and the parts")
    parser.add_argument(
        "--overlay", action="store_true", help="also write the images with the colours of their classes"
    )
    parser.add_argument(
        "--shard",
        default="0/1",
        metavar="I/N",
        help="do every N-th shard from the I-th on, I from 0 to N − 1: one call of N on as many machines",
    )
    parser.add_argument("--shard-size", type=int, default=SHARD_FILES, metavar="FILES", help=f"default: {SHARD_FILES}")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="remove the parts in --out that were made from other images, or by another model or settings",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this process (default), or Ray Data on this machine or the cluster of RAY_ADDRESS",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="models in memory at once, with Ray")
    add_prediction(parser)
    add_instances(parser)
    add_inputs(parser)
    return parser.parse_intermixed_args()


def choose_shards(
    arguments: argparse.Namespace, files: Sequence[Path], made_by: str, predictor: "Predictor"
) -> list[Shard]:
    """Return this call's share of the shards; parts in the folder that are not of this batch are refused or removed."""
    from seg.inference.mask_content import has_bands
    from seg.inference.output import plan_jobs

    jobs = plan_jobs(files, arguments.out, predictor.config.data, has_bands=has_bands(predictor.classes))
    shards = plan_shards(jobs, arguments.out, made_by, arguments.shard_size)
    if stale := find_stale(arguments.out, shards):
        if not arguments.replace:
            names = ", ".join(path.name for path in stale[:MAX_NAMED])
            more = f" and {len(stale) - MAX_NAMED} more" if len(stale) > MAX_NAMED else ""
            raise UserError(
                f"--out {arguments.out}: holds parts of other images, another model or other settings ({names}{more}); "
                "choose another folder, or remove them with --replace"
            )
        for path in stale:
            path.unlink()
    place, parts = parse_share(arguments.shard)
    return shards[place::parts]


def run_here(predictor, waiting: Sequence[Shard], options: "Options") -> Iterator["Counts"]:
    """Segment shards in this process, with a progress bar, and yield the counts of each."""
    from tqdm import tqdm

    from seg.batch.segment_shard import segment_shard

    with tqdm(total=sum(len(shard.jobs) for shard in waiting), unit="image", disable=None, file=sys.stderr) as bar:
        for shard in waiting:
            yield segment_shard(predictor, shard, options, lambda row: bar.update())


def check_arguments(arguments: argparse.Namespace, files: Sequence[Path]) -> None:
    """Refuse what cannot be a batch."""
    parse_share(arguments.shard)
    if not files:
        raise UserError("expected at least one image or folder")
    for name in ("shard_size", "workers"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(arguments, name)}")
    if arguments.workers > 1 and arguments.engine == "local":
        raise UserError("--workers goes with --engine ray; in this process one model uses all cores")
    if arguments.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError('--engine ray needs Ray: pip install "unet-transformer-seg[ray]"')
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"--out {arguments.out}: expected a folder, this is a file")


def main() -> int:
    """Segment this call's share of the images; return the exit code."""
    arguments = parse_arguments()
    files, overrides = part_inputs(arguments.inputs)
    folder, overrides = arguments.run or arguments.model, [*overrides, *prediction_overrides(arguments)]
    check_arguments(arguments, files)
    config = load_config(folder / "config.yaml", overrides)  # reports a mistake before jax is imported

    from seg.batch.segment_shard import Counts, count_part
    from seg.inference.done_record import digest_predictor
    from seg.inference.segment_files import Options

    options = Options(arguments.overlay, objects=config.instances.method != "none")
    if arguments.engine == "ray":  # here the model only names the parts; the devices are the actors'
        import jax

        jax.config.update("jax_platforms", "cpu")
    predictor = api.load(folder, checkpoint=arguments.checkpoint, overrides=overrides)
    made_by = digest_predictor(predictor, options)
    shards = choose_shards(arguments, files, made_by, predictor)
    complete = {shard.number: counts for shard in shards if (counts := count_part(shard))}
    waiting = [shard for shard in shards if shard.number not in complete]
    total = sum(complete.values(), Counts())
    if complete:
        print(f"{count(total.files, 'image')} in {count(len(complete), 'part')} done already", file=sys.stderr)
    if arguments.engine == "ray":
        from seg.batch.ray_engine import run_on_ray

        running = run_on_ray(folder, arguments.checkpoint, overrides, waiting, options, arguments.workers)
    else:
        running = run_here(predictor, waiting, options)
    try:
        for counts in running:
            total += counts
    except (KeyboardInterrupt, SystemExit, UserError):
        print(f"stopped: {count(total.files, 'image')} done; the same command does the rest", file=sys.stderr)
        raise
    share = "" if arguments.shard == "0/1" else f"shard {arguments.shard}: "
    # The pixels of overlapping classes are not those of the images.
    size = "" if predictor.classes.overlapping else f"{total.megapixels:.1f} megapixels, "
    print(
        f"{share}{count(total.files, 'image')} in {count(len(shards), 'part')}, {size}"
        f"{total.errors} unreadable; results in {arguments.out}",
        file=sys.stderr,
    )
    return EXIT_USER_ERROR if total.errors else EXIT_OK


if __name__ == "__main__":
    run_command(main)
