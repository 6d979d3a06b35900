"""Does to real runs what accidents do, and counts what becomes of them.

    python tests/stress/faults.py kills [--times 20]   SIGKILL at drawn moments, resumed each time
    python tests/stress/faults.py signals              SIGTERM and Ctrl-C in each phase, and a second one
    python tests/stress/faults.py checkpoints          each file of a checkpoint damaged in each way
    python tests/stress/faults.py disk                 a full disk, and two processes in one run (a tmpfs: needs root)
    python tests/stress/faults.py mistakes             mistakes of users, passed to the commands
    python tests/stress/faults.py strangers            hostile names, links, pipes and headers, passed to the commands

All runs are of one tiny config on the CPU, and each must end in the bits and the tables of a run that nobody
interrupted. Prints a table; exit code 1 if something differs, a resume fails, or a traceback is printed; 2 if the
command cannot be tried here.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description="Do to real runs what accidents do.")
    parser.add_argument("command", choices=("kills", "signals", "checkpoints", "disk", "mistakes", "strangers"))
    parser.add_argument("--times", type=int, default=20, help="kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    parser.add_argument("--folder", type=Path, help="for the runs; kept, and kills are continued in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for the details")
    return parser.parse_args()


def run(arguments: argparse.Namespace, folder: Path):
    """Return the outcome of the command, done in this folder."""
    if arguments.command == "kills":
        from faulting.kills import kill_many

        return kill_many(folder, arguments.times, arguments.seed)
    if arguments.command == "signals":
        from faulting.signals import signal_all

        return signal_all(folder, arguments.seed)
    if arguments.command == "checkpoints":
        from faulting.damage import damage_all

        return damage_all(folder, arguments.seed)
    if arguments.command == "mistakes":
        from faulting.mistakes import try_mistakes

        return try_mistakes(folder)
    if arguments.command == "strangers":
        from faulting.strangers import try_strangers

        return try_strangers(folder)
    from faulting.disk import try_disk

    return try_disk(folder)


def main() -> int:
    """Do what is asked for and print it; return the exit code."""
    arguments = parse_arguments()
    os.environ["JAX_PLATFORMS"] = "cpu"
    from faulting.outcome import NotPossibleError, format_table

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute() / arguments.command
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            outcome = run(arguments, folder)
        except NotPossibleError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    minutes = (time.monotonic() - began) / 60
    print(format_table(outcome.heads, outcome.rows))
    for note in outcome.notes:
        print(note)
    for failure in outcome.failures:
        print(f"FAILURE {failure}")
    print(f"{len(outcome.failures)} failures; {minutes:.1f} minutes")
    if arguments.json:
        facts = {"command": arguments.command, "seed": arguments.seed, "python": platform.python_version()}
        facts |= {"heads": outcome.heads, "rows": outcome.rows, "failures": outcome.failures, "notes": outcome.notes}
        arguments.json.write_text(json.dumps(facts | {"minutes": minutes} | outcome.facts, indent=1) + "\n")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
