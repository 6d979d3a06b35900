"""Check a data set before training: `asr check --config CONFIG [key=value …]`."""

import argparse
import logging
from pathlib import Path

from asr.cli import run_command
from asr.config import Config
from asr.config.reader import load_start_config
from asr.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from asr.untrusted import indented

SPLITS = ("train", "val", "test")
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)
MAX_ROWS, BAR_WIDTH = 12, 24  # size of the histogram


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="asr check",
        description="Read every utterance of a data set: count hours, words and tokens, draw a histogram of the "
        "lengths, name each unusable or suspicious line, and find what two splits share.",
        epilog="Exit codes: 0 all lines are usable, 2 at least one is not.",
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file, or the name of a packaged config")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example data.root=FOLDER")
    return parser.parse_intermixed_args()


def main() -> int:
    """Read, report; return the exit code."""
    arguments = parse_arguments()
    logging.basicConfig(format="warning: %(message)s")
    config = load_start_config(arguments.config, arguments.overrides)

    from asr.data.inspection import find_duplicates, inspect_tokens  # imports jax: after the config was checked

    reports, problems = read_splits(config), []
    try:
        tokens = inspect_tokens(config, reports)
    except UserError as error:
        tokens, problems = None, [str(error)]
    print(format_table(reports, tokens))
    if tokens:
        print(f"vocabulary: {tokens.tokenizer.vocab_size} tokens; {format_plan(config, tokens.plan)}")
    print(format_histogram(reports))
    warnings = [f"{split}: {warning}" for split, report in reports.items() for warning in report.warnings]
    for warning in warnings + find_duplicates(reports):
        print(indented(f"warning: {warning}"))
    problems = [f"{split}: {problem}" for split, report in reports.items() for problem in report.problems] + problems
    if not problems:
        print("all lines are usable")
        return EXIT_OK
    print(f"\nproblems: {len(problems)}")
    print("\n".join(map(indented, problems)))
    return EXIT_USER_ERROR


def read_splits(config: Config) -> dict:
    """Return the report of each split; the test split may be missing."""
    from tqdm import tqdm

    from asr.data.inspection import inspect_split

    def progress(utterances, **labels):
        return tqdm(utterances, unit="utterance", disable=None, **labels)

    reports = {}
    for split in SPLITS:
        try:
            reports[split] = inspect_split(config, split, progress)
        except UserError as error:
            if split != "test":
                raise
            print(indented(f"no test split: {error}"))
    return reports


def format_table(reports: dict, tokens) -> str:
    """Return a table of the sound and text in the usable lines of each split; `tokens` may be None."""
    columns = {}
    for split, report in reports.items():
        seconds, count = report.durations_s, max(len(report.texts), 1)
        words = sum(len(text.split()) for text in report.texts)
        num_tokens = int(tokens.lengths[split].sum()) if tokens else 0
        known = set(reports["train"].texts)
        columns[split] = {
            "utterances": f"{len(report.texts):,}",
            "hours": f"{sum(seconds) / 3600:.3f}",
            "shortest, mean, longest in s": f"{min(seconds, default=0):.2f} {sum(seconds) / count:.2f} "
            f"{max(seconds, default=0):.2f}",
            "words": f"{words:,}",
            "words in an utterance": f"{words / count:.1f}",
            "characters in an utterance": f"{sum(map(len, report.texts)) / count:.1f}",
            "different texts": f"{len(set(report.texts)):,}",
            "utterances whose text is in train": f"{sum(text in known for text in report.texts):,}",
            "tokens": f"{num_tokens:,}",
            "tokens in a second": f"{num_tokens / max(sum(seconds), 1e-9):.1f}",
        }
    rows = next(iter(columns.values()))
    width = max(map(len, rows))
    lines = [f"{'':<{width}}" + "".join(f" │ {split:>16}" for split in columns)]
    lines += [f"{row:<{width}}" + "".join(f" │ {column[row]:>16}" for column in columns.values()) for row in rows]
    return "\n".join(lines)


def format_plan(config: Config, plan) -> str:
    """Return the batches of the first epoch in words."""
    rate_hz = config.features.sample_rate_hz
    shapes = ", ".join(f"{shape.batch_size} × {shape.num_samples / rate_hz:g} s" for shape in plan.shapes)
    return f"{plan.num_batches(0)} batches an epoch of {shapes}; {plan.padding_share(0):.1%} of them is padding"


def format_histogram(reports: dict) -> str:
    """Return how many utterances of each split are how long, as bars; the longest bar of each split is full."""
    longest_s = max((seconds for report in reports.values() for seconds in report.durations_s), default=0.0)
    step_s = next((step for step in STEPS_S if longest_s / step < MAX_ROWS), longest_s / (MAX_ROWS - 1))
    num_rows = int(longest_s / step_s) + 1
    counts = {split: [0] * num_rows for split in reports}
    for split, report in reports.items():
        for seconds in report.durations_s:
            counts[split][int(seconds / step_s)] += 1
    lines = [(f"{'seconds':>15}" + "".join(f" │ {split:<{BAR_WIDTH + 8}}" for split in reports)).rstrip()]
    for row in range(num_rows):
        line = f"{row * step_s:>6.1f} – {(row + 1) * step_s:>6.1f}"
        for split in reports:
            count, most = counts[split][row], max(1, *counts[split])
            line += f" │ {'█' * -(-BAR_WIDTH * count // most):<{BAR_WIDTH}} {count:>7,}"
        lines.append(line.rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
