"""Transcribe many files as shards: `asr batch --model MODEL --out FOLDER FILES…`, or `python -m asr.batch …`."""

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr.arguments import (
    add_dtype,
    add_hotwords,
    add_inputs,
    add_model,
    add_punct,
    add_vad,
    chosen_settings,
    count,
    part_inputs,
    part_vad_settings,
)
from asr.batch.model_parts import ModelParts
from asr.batch.shards import Shard, find_stale, parse_share, plan_shards
from asr.cli import run_command
from asr.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from asr.inference.hotwords import Hotword, read_hotwords
from asr.published.funasr_config import read_settings

if TYPE_CHECKING:
    from asr.batch.transcribe_shard import Counts

SHARD_FILES = 256
MAX_NAMED = 3
"""Stale parts that a message names."""


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr batch",
        description="Transcribe many sound files. The input is divided into shards; each becomes a part in --out: a "
        "file of JSON lines that appears when it is complete. The same command continues a call that was stopped. A "
        "file that cannot be read gets a line with the error.",
        epilog="Exit codes: 0 all files transcribed, 2 wrong input, or some files unreadable or with segments that "
        "could not be recognised (the rest is done).",
    )
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the parts")
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
        help="remove the parts in --out that were made from other files, or by another model or settings",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this process (default), or Ray Data on this machine or the cluster of RAY_ADDRESS",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="models in memory at once, with Ray")
    add_dtype(parser)
    add_vad(parser)
    add_punct(parser)
    add_hotwords(parser)
    add_inputs(parser)
    return parser.parse_intermixed_args()


def choose_shards(arguments: argparse.Namespace, files: Sequence[Path], made_by: str) -> list[Shard]:
    """Return this call's share of the shards; parts in the folder that are not of this batch are refused or removed."""
    from asr.inference.output import plan_jobs

    jobs = plan_jobs(files, arguments.out, ".jsonl")
    shards = plan_shards(jobs, arguments.out, made_by, arguments.shard_size)
    if stale := find_stale(arguments.out, shards):
        if not arguments.replace:
            names = ", ".join(path.name for path in stale[:MAX_NAMED])
            more = f" and {len(stale) - MAX_NAMED} more" if len(stale) > MAX_NAMED else ""
            raise UserError(
                f"--out {arguments.out}: holds parts of other files, another model or other settings ({names}{more}); "
                "choose another folder, or remove them with --replace"
            )
        for path in stale:
            path.unlink()
    place, parts = parse_share(arguments.shard)
    return shards[place::parts]


def run_here(transcriber, waiting: Sequence[Shard], hotwords: tuple[Hotword, ...]) -> Iterator["Counts"]:
    """Transcribe shards in this process, with a progress bar, and yield the counts of each."""
    from tqdm import tqdm

    from asr.batch.transcribe_shard import transcribe_shard

    with tqdm(total=sum(len(shard.jobs) for shard in waiting), unit="file", disable=None, file=sys.stderr) as bar:
        for shard in waiting:
            yield transcribe_shard(transcriber, shard, lambda row: bar.update(), hotwords)


def check_arguments(arguments: argparse.Namespace, files: Sequence[Path]) -> None:
    """Refuse what cannot be a batch."""
    parse_share(arguments.shard)
    if not files:
        raise UserError("expected at least one sound file, folder or list")
    for name in ("shard_size", "workers"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(arguments, name)}")
    if arguments.workers > 1 and arguments.engine == "local":
        raise UserError("--workers goes with --engine ray; in this process one model uses all cores")
    if arguments.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError('--engine ray needs Ray: pip install "paraformer-asr[ray]"')
    if arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"--out {arguments.out}: expected a folder, this is a file")


def main() -> int:
    """Transcribe this call's share of the files; return the exit code."""
    arguments = parse_arguments()
    files, settings = part_inputs(arguments.inputs)
    settings, vad_settings = part_vad_settings(settings, arguments.vad)
    overrides, folder = [*settings, *chosen_settings(arguments)], arguments.run or arguments.model
    check_arguments(arguments, files)
    read_settings(folder, overrides)  # reports a mistake before jax is imported
    hotwords = read_hotwords(arguments.hotwords)
    beside = {"vad": arguments.vad, "vad_settings": tuple(vad_settings), "punct": arguments.punct}
    parts = ModelParts(folder, arguments.checkpoint, tuple(overrides), **beside)

    from asr.batch.transcribe_shard import Counts, count_part
    from asr.inference.done_record import digest_transcriber

    if arguments.engine == "ray":  # here the model only names the parts; the devices are the actors'
        import jax

        jax.config.update("jax_platforms", "cpu")
    transcriber = parts.load()
    transcriber.read_hotwords(hotwords)  # warns of what the model cannot write
    shards = choose_shards(arguments, files, digest_transcriber(transcriber, "batch", hotwords))
    complete = {shard.number: counts for shard in shards if (counts := count_part(shard))}
    waiting = [shard for shard in shards if shard.number not in complete]
    total = sum(complete.values(), Counts())
    if complete:
        print(f"{count(total.files, 'file')} in {count(len(complete), 'part')} done already", file=sys.stderr)
    if arguments.engine == "ray":
        from asr.batch.ray_engine import run_on_ray

        running = run_on_ray(parts, hotwords, waiting, arguments.workers)
    else:
        running = run_here(transcriber, waiting, hotwords)
    try:
        for counts in running:
            total += counts
    except (KeyboardInterrupt, SystemExit, UserError):
        print(f"stopped: {count(total.files, 'file')} done; the same command does the rest", file=sys.stderr)
        raise
    share = "" if arguments.shard == "0/1" else f"shard {arguments.shard}: "
    print(
        f"{share}{count(total.files, 'file')} in {count(len(shards), 'part')}, {total.sound_s:.0f} s of sound, "
        f"{total.empty} without a word, {total.errors} unreadable; results in {arguments.out}",
        file=sys.stderr,
    )
    if total.incomplete:
        print(f"{count(total.incomplete, 'file')} with segments that could not be recognised", file=sys.stderr)
    return EXIT_USER_ERROR if total.errors or total.incomplete else EXIT_OK


if __name__ == "__main__":
    run_command(main)
