"""Gives thousands of damaged and hostile inputs to every reader of the package, and demands a good answer to each.

    python tests/stress/fuzz_inputs.py --cases 10000 --seed 0 [--kind wav …] [--keep FOLDER] [--json FILE]

An input is accepted, or refused by an error that names it. Anything else is a failure: another exception, a warning,
no answer in 10 s, 400 MB more memory, a message that names nothing or hands control characters on. Case i of a kind
depends on (seed, kind, i) alone: `--kind wav --case 17` runs it again. (What orbax writes has its own names and dates.)
Ten thousand cases take about ten minutes on one core. Needs the extra `export`.
"""

import argparse
import collections
import dataclasses
import faulthandler
import json
import logging
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fuzzing import configs, media, models, sounds, strangers, texts, torch_files
from fuzzing.trials import Kind, Trial, limit_address_space, run_trial
from tqdm import tqdm

from asr.cli import run_command
from asr.errors import EXIT_OK, UserError

KINDS = (*sounds.KINDS, *media.KINDS, *texts.KINDS, *configs.KINDS, *torch_files.KINDS, *models.KINDS, *strangers.KINDS)

EXIT_FAILURES = 1
MORE_ADDRESS_SPACE = 8 << 30
"""Bytes: XLA reserves addresses that it never uses."""


@dataclasses.dataclass
class Tally:
    """What came of the cases of a kind.

    Attributes:
        kind: its name.
        tried: cases.
        accepted: of them.
        refused: by a message that names the input.
        failures: numbers of the cases that failed.
        slowest_ms: longest time of a case.
        slowest: number of that case.
        grown_mb: most memory that a case took.
    """

    kind: str
    tried: int = 0
    accepted: int = 0
    refused: int = 0
    failures: list[int] = dataclasses.field(default_factory=list)
    slowest_ms: float = 0.0
    slowest: int = 0
    grown_mb: float = 0.0

    def add(self, number: int, trial: Trial) -> None:
        """Count a case."""
        self.tried += 1
        self.accepted += trial.outcome == "accepted"
        self.refused += trial.outcome == "refused"
        if trial.outcome == "failed":
            self.failures.append(number)
        if 1000 * trial.seconds > self.slowest_ms:
            self.slowest_ms, self.slowest = 1000 * trial.seconds, number
        self.grown_mb = max(self.grown_mb, trial.grown_mb)


def share_cases(kinds: Sequence[Kind], cases: int) -> list[int]:
    """Return how many of all cases each kind gets, by its share; their sum is `cases`."""
    total = sum(kind.share for kind in kinds)
    bounds = [0]
    for kind in kinds:
        bounds.append(bounds[-1] + kind.share)
    return [cases * high // total - cases * low // total for low, high in zip(bounds, bounds[1:], strict=False)]


def run_kind(kind: Kind, seed: int, numbers: Sequence[int], work: Path) -> Iterator[tuple[int, Trial, Path]]:
    """Yield (number, what came of it, folder of the input) of some cases of a kind.

    Args:
        kind: of input.
        seed: of all cases.
        numbers: of the cases.
        work: an empty folder; while a case runs, its input is in `work/case`.
    """
    (work / "samples").mkdir()
    samples = kind.samples(work / "samples")
    for number in numbers:
        folder = work / "case"
        folder.mkdir()
        names = kind.write(random.Random(f"{seed} {kind.name} {number}"), samples, folder)
        yield number, run_trial(kind, folder, names), folder
        shutil.rmtree(folder, ignore_errors=True)


def keep_failure(keep: Path, kind: Kind, number: int, seed: int, trial: Trial) -> None:
    """Write the input of a failed case again, as it was before it was read, with what was wrong beside it."""
    target = keep / f"{kind.name}_{number}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as samples:
        (target / "input").mkdir()
        kind.write(random.Random(f"{seed} {kind.name} {number}"), kind.samples(Path(samples)), target / "input")
    (target / "failure.txt").write_text(trial.message, encoding="utf-8", errors="replace")


def format_table(tallies: Sequence[Tally]) -> str:
    """Return a row for each kind, and the sums."""
    whole = Tally("all")
    for tally in tallies:
        whole.tried, whole.accepted = whole.tried + tally.tried, whole.accepted + tally.accepted
        whole.refused, whole.failures = whole.refused + tally.refused, whole.failures + tally.failures
        whole.slowest_ms = max(whole.slowest_ms, tally.slowest_ms)
        whole.grown_mb = max(whole.grown_mb, tally.grown_mb)
    rows = [f"{'kind':14}{'tried':>8}{'accepted':>10}{'refused':>9}{'failures':>10}{'slowest ms':>12}{'most MB':>9}"]
    for tally in (*tallies, whole):
        rows.append(
            f"{tally.kind:14}{tally.tried:>8}{tally.accepted:>10}{tally.refused:>9}{len(tally.failures):>10}"
            f"{tally.slowest_ms:>12.0f}{tally.grown_mb:>9.0f}"
        )
    return "\n".join(rows)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        description="Give damaged inputs to every reader.", epilog="Exit code 1: failures."
    )
    parser.add_argument("--cases", type=int, default=10_000, help="over all kinds (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--kind", nargs="+", choices=[kind.name for kind in KINDS], metavar="KIND", help="default: all")
    parser.add_argument("--case", type=int, metavar="NUMBER", help="only this one of the kind")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for the failed inputs, each with its traceback")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the table, and the messages of the refusals counted")
    return parser.parse_args()


def main() -> int:
    """Run the cases, print the table; return the exit code."""
    arguments = parse_arguments()
    if arguments.cases < 1:
        raise UserError(f"--cases: expected at least 1, found {arguments.cases}")
    faulthandler.enable(sys.__stderr__)
    logging.disable(logging.CRITICAL)  # a store says in the log which damaged checkpoint it passed over
    limit_address_space(MORE_ADDRESS_SPACE)
    kinds = [kind for kind in KINDS if not arguments.kind or kind.name in arguments.kind]
    tallies, messages = [], collections.Counter()
    for kind, cases in zip(kinds, share_cases(kinds, arguments.cases), strict=True):
        tally = Tally(kind.name)
        numbers = range(cases) if arguments.case is None else [arguments.case]
        with tempfile.TemporaryDirectory(prefix="fuzz_") as work:
            trials = run_kind(kind, arguments.seed, numbers, Path(work))
            for number, trial, folder in tqdm(trials, total=len(numbers), desc=kind.name, disable=None):
                tally.add(number, trial)
                messages[f"{kind.name}: {trial.message.replace(str(folder), '…')[:300]}"] += trial.outcome == "refused"
                if trial.outcome == "failed":
                    print(f"{kind.name} {number}: {trial.message.strip().splitlines()[-1][:300]}", file=sys.stderr)
                    if arguments.keep:
                        keep_failure(arguments.keep, kind, number, arguments.seed, trial)
        tallies.append(tally)
    print(format_table(tallies))
    if arguments.json:
        rows = [dataclasses.asdict(tally) for tally in tallies]
        content = {"seed": arguments.seed, "kinds": rows, "refusals": dict(messages.most_common())}
        arguments.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return EXIT_FAILURES if any(tally.failures for tally in tallies) else EXIT_OK


if __name__ == "__main__":
    run_command(main)
