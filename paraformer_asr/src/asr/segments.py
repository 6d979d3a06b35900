"""List where there is speech in sound files: `asr segments --vad FOLDER FILES…`."""

import argparse
import json
import sys
from pathlib import Path

from asr import api
from asr.arguments import add_inputs, part_inputs
from asr.cli import run_command
from asr.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from asr.untrusted import harmless, indented


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr segments",
        description="List the stretches of speech in sound files of any length, one a line: file, start and end in "
        "seconds, with tabs between them; or one JSON object for each file.",
        epilog="Exit codes: 0 all files read, 2 wrong input, or some files unreadable (the rest is done).",
    )
    parser.add_argument(
        "--vad",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="voice activity detector, one of FunASR or a run; its settings as KEY=VALUE",
    )
    parser.add_argument("--format", choices=("tsv", "json"), default="tsv", help="default: tsv")
    add_inputs(parser)
    return parser.parse_intermixed_args()


def main() -> int:
    """List the speech of all files that can be read; return the exit code."""
    arguments = parse_arguments()
    files, settings = part_inputs(arguments.inputs)
    if not files:
        raise UserError("expected at least one sound file or folder")

    from asr.data.sounds.audio import iterate_audio
    from asr.inference.output import plan_jobs

    jobs = plan_jobs(files, None, "")
    detector = api.load_part("vad", arguments.vad, [text.removeprefix("vad.") for text in settings])
    num_bad = 0
    for job in jobs:
        try:
            blocks = iterate_audio(job.source, detector.sample_rate_hz, span=job.span)
            stretches = [(segment.start_s, segment.end_s) for segment in detector.find(blocks)]
        except UserError as error:
            num_bad += 1
            print(indented(f"error: {error}"), file=sys.stderr)
            continue
        if not stretches:
            print(indented(f"{job.source}: no speech"), file=sys.stderr)
        if arguments.format == "json":
            print(json.dumps({"file": str(job.source), "segments": stretches}))
        else:
            name = harmless(job.label, kept="")
            print("".join(f"{name}\t{start_s:.2f}\t{end_s:.2f}\n" for start_s, end_s in stretches), end="")
    return EXIT_USER_ERROR if num_bad else EXIT_OK


if __name__ == "__main__":
    run_command(main)
