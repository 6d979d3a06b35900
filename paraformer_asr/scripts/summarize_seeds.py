"""Prints the test scores of runs that differ in their seed, with mean and spread, and writes them as JSON.

    python scripts/summarize_seeds.py --out summary.json RUN RUN RUN

Each run has been scored before by `python -m asr.eval --run RUN --split test`. The spread is the standard deviation
between the runs: what another seed may change. The interval of a row is that of one run: what other test speakers may
change.
"""

import argparse
import json
import shlex
import statistics
from pathlib import Path

from asr.cli import run_command
from asr.errors import UserError

RATES = ("words", "words_text_not_in_training", "words_text_in_training", "characters")


def read_run(run: Path) -> dict:
    """Return the facts and the error rates of one run.

    Raises:
        UserError: it was not scored, or its files are not those that `asr.eval` writes.
    """
    file = run / "eval_test" / "metrics.json"
    try:
        scores, environment = json.loads(file.read_text()), json.loads((run / "environment.json").read_text())
        facts = {name: scores[name] for name in ("checkpoint", "average", "decoder", "num_utterances")}
        rates = {name: scores[name] for name in RATES if name in scores}
        rates["words"]["error_rate"], rates["characters"]["error_rate"]
        setting = {name: environment[name] for name in ("devices", "git", "packages")}
        return {"run": run.name, **facts, **rates, **setting}
    except OSError as error:
        raise UserError(
            f"{error.filename}: {error.strerror}; "
            f"score the run first: python -m asr.eval --run {shlex.quote(str(run))} --split test"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected what asr.eval writes ({type(error).__name__}: {error})") from None


def summarize(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation over the runs of each error rate that all of them have."""
    summary = {}
    for name in RATES:
        values = [row[name]["error_rate"] for row in rows if row.get(name, {}).get("error_rate") is not None]
        if len(values) == len(rows):
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            summary[name] = {"mean": statistics.fmean(values), "standard_deviation": spread}
    return summary


def format_rows(rows: list[dict], summary: dict[str, dict[str, float]]) -> str:
    """Return the table: one line a run, and the means."""
    width = max(len("mean ± standard deviation"), *(len(row["run"]) for row in rows))
    lines = [f"{'run':<{width}} │ {'WER %':>12} │ {'95 % interval':>13} │ {'WER %, new texts':>16} │ {'CER %':>12}"]
    columns = ("words", "words_text_not_in_training", "characters")
    for row in rows:
        low, high = (_percent(limit, 1) for limit in row["words"]["interval_95"])
        words, new, characters = (_percent(row.get(name, {}).get("error_rate")) for name in columns)
        lines.append(f"{row['run']:<{width}} │ {words:>12} │ {f'{low} … {high}':>13} │ {new:>16} │ {characters:>12}")
    words, new, characters = (
        f"{_percent(summary[name]['mean'])} ± {_percent(summary[name]['standard_deviation'])}"
        if name in summary
        else "–"
        for name in columns
    )
    lines.append(f"{'mean ± standard deviation':<{width}} │ {words:>12} │ {'':>13} │ {new:>16} │ {characters:>12}")
    return "\n".join(lines)


def _percent(rate: float | None, digits: int = 2) -> str:
    return "–" if rate is None else f"{100 * rate:.{digits}f}"


def main() -> None:
    """Print the table and write the file."""
    parser = argparse.ArgumentParser(description="Summarize the test scores of runs that differ in their seed.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories, scored on the test split")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    arguments = parser.parse_args()
    rows = [read_run(run) for run in arguments.runs]
    summary = summarize(rows)
    try:
        arguments.out.write_text(json.dumps({"summary": summary, "runs": rows}, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--out {arguments.out}: cannot be written ({error.strerror})") from None
    print(format_rows(rows, summary))
    print(f"finished: {arguments.out}")


if __name__ == "__main__":
    run_command(main)
