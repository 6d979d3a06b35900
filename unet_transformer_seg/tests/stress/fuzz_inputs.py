"""Gives thousands of damaged and hostile inputs to the readers of the package, and counts what becomes of them.

    python tests/stress/fuzz_inputs.py --cases 10000 --seed 0 [--kind image …] [--keep FOLDER] [--json FILE]

An input may be accepted, or refused by the error that its reader documents, with a message that names the file or key.
Whatever else happens is a failure: another exception, a warning, no answer within seconds, memory beyond a bound, a
message without a name or of endless length, and an answer that is not what it should be. Exit code 1 if there was one.

A case depends on the seed, its kind and its number alone: `--kind image --case 17` runs one of them again.
"""

import argparse
import dataclasses
import faulthandler
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import TextIO

from fuzzing import configs, models, pictures, published, stacks, strangers
from fuzzing.trials import Case, Kind, limit_address_space, run_trial

KINDS = {
    kind.name: kind for module in (pictures, stacks, configs, models, published, strangers) for kind in module.KINDS
}


@dataclasses.dataclass
class Tally:
    """What became of the cases of one kind.

    Attributes:
        kind: its name.
        tried: cases.
        accepted: those that were read.
        refused: those that were refused as documented.
        failures: (number, what happened) of the others.
        slowest_ms: longest time that a reader took.
        growth_mb: most memory that a reader took beyond what was taken before.
    """

    kind: str
    tried: int = 0
    accepted: int = 0
    refused: int = 0
    failures: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    slowest_ms: float = 0.0
    growth_mb: float = 0.0


def fuzz(kind: Kind, numbers: range, seed: int, keep: Path | None = None) -> Tally:
    """Return what becomes of the cases `numbers` of a kind.

    Args:
        kind: of input.
        numbers: of the cases.
        seed: of all draws.
        keep: folder for the inputs of failures, each with a text that says what happened.

    Raises:
        AssertionError: a sound sample is not accepted.
    """
    tally = Tally(kind.name)
    with tempfile.TemporaryDirectory() as folder:
        samples = kind.make(Path(folder) / "samples")
        place = Path(folder) / "case"
        for sample in samples:
            failure, refused, *_ = run_trial(kind, sample, place)
            assert not failure and not refused, f"{kind.name}: a sound sample was not accepted: {failure or refused}"
        for number in numbers:
            case = kind.change(Random(f"{seed} {kind.name} {number}"), samples)
            failure, refused, seconds, growth_mb = run_trial(kind, case, place)
            tally.tried += 1
            tally.accepted += not failure and not refused
            tally.refused += bool(refused) and not failure
            tally.slowest_ms = max(tally.slowest_ms, seconds * 1000)
            tally.growth_mb = max(tally.growth_mb, growth_mb)
            if failure:
                tally.failures.append((number, failure))
                if keep:
                    keep_case(keep / f"{kind.name}_{number}", place, case, failure)
    return tally


def keep_case(folder: Path, place: Path, case: Case, failure: str) -> None:
    """Copy the input of a failure, with a text that says what happened."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place, folder)
    (folder / "failure.txt").write_text(f"arguments: {case.arguments!r}\n\n{failure}\n", errors="backslashreplace")


def own_standard_error() -> TextIO:
    """Return the standard error, of which the libraries that write to it by its number lose sight: libtiff is noisy."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return terminal


def format_table(tallies: list[Tally]) -> str:
    """Return the counts of each kind, and their sums."""
    heads = ("kind", "tried", "accepted", "refused", "failures", "slowest ms", "growth MB")
    rows = [
        (t.kind, t.tried, t.accepted, t.refused, len(t.failures), round(t.slowest_ms), round(t.growth_mb))
        for t in tallies
    ]
    columns = list(zip(*rows, strict=True))[1:]
    rows.append(("all", *map(sum, columns[:4]), *map(max, columns[4:])))
    lines = [f"{heads[0]:<14}" + "".join(f"{head:>12}" for head in heads[1:])]
    return "\n".join(lines + [f"{row[0]:<14}" + "".join(f"{value:>12,}" for value in row[1:]) for row in rows])


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description="Give damaged and hostile inputs to every reader of the package.")
    parser.add_argument("--cases", type=int, default=10_000, help="over all kinds (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="NAME")
    parser.add_argument("--case", type=int, help="run this case only, of each kind")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for the inputs of failures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for the counts and failures")
    return parser.parse_args()


def main() -> int:
    """Run the cases, print the table; return the exit code."""
    arguments = parse_arguments()
    sys.stderr = own_standard_error()
    faulthandler.enable(sys.stderr)
    logging.disable(logging.CRITICAL)  # a store says in the log which damaged checkpoint it passed over
    limit_address_space()
    tallies, num_kinds = [], len(arguments.kind)
    for place, name in enumerate(arguments.kind):
        count = arguments.cases // num_kinds + (place < arguments.cases % num_kinds)
        numbers = range(count) if arguments.case is None else range(arguments.case, arguments.case + 1)
        start = time.perf_counter()
        tallies.append(fuzz(KINDS[name], numbers, arguments.seed, arguments.keep))
        print(f"{name}: {len(numbers)} cases in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        for number, failure in tallies[-1].failures[:5]:
            print(f"{name} {number}: {failure.strip()[-1500:]}", file=sys.stderr)
    print(format_table(tallies))
    if arguments.json:
        facts = {"cases": arguments.cases, "seed": arguments.seed, "python": platform.python_version()}
        facts["kinds"] = [dataclasses.asdict(tally) for tally in tallies]
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 1 if any(tally.failures for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
